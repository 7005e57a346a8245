"""What is said of a recording under pseudonyms: nothing that its path says."""

import pytest

from ndt3_dist.errors import BadInput
from ndt3_dist.prep.privacy import LONGEST, clean, reason_of, source_label
from ndt3_dist.prep.recordings import RecordingFile

KEY = b"k" * 32


@pytest.mark.parametrize(
    ("text", "source", "said"),
    [
        (
            "Jango/x.nwb: units of JK are damaged",
            "Jango/JK_2015.nwb",
            ".../x.nwb: units of ... are damaged",
        ),
        ("JKL and aJK stay, JK goes", "JK.nwb", "JKL and aJK stay, ... goes"),
        ("20150730 is no day", "sub-Jango_ses-20150730.nwb", "... is no day"),
        ("units/spike_times of data", "sub-A1/data.nwb", "units/spike_times of data"),
    ],
)
def test_a_message_lacks_each_part_of_the_path(text, source, said):
    assert clean(text, KEY, source) == said
    assert clean(text, b"", source) == text


@pytest.mark.parametrize("name", ["a/Jango.nwb", "a/Jango.MAT", "a/Jango.2015-07-30", "Jango"])
def test_a_label_keeps_no_more_than_the_kind_of_file(name):
    label = source_label(KEY, name)
    assert "Jango" not in label
    assert "2015" not in label
    assert label.endswith((".nwb", ".mat")) == name.lower().endswith((".nwb", ".mat"))
    assert source_label(b"", name) == name


def test_a_reason_has_no_absolute_path_and_an_end():
    source = RecordingFile("/lab/raw/Jango/a.nwb", "Jango/a.nwb", 1)
    reason = reason_of(BadInput(f"{source.path}: of Jango\n" + "x" * 5000), KEY, source)
    assert reason.startswith("of ... xxx")
    assert len(reason) == LONGEST
    assert reason_of(ZeroDivisionError("in it"), b"", source) == "ZeroDivisionError: in it"
