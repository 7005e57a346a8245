"""Settings of any run as text, those of a stranger included."""

import pytest

from ndt3_dist.pages.run_config import flat, parse_config, positive


def test_values_are_the_text_that_the_file_has():
    text = (
        b"run: {name: a}\noptim:\n  lr: 3e-4\n  betas: [0.9, 0.95]\ndata:\n  sessions: ['*', b]\n"
    )
    found, fault = parse_config(text, "config.yaml")
    assert fault == ""
    assert dict(flat(found)) == {
        "run.name": "a",
        "optim.lr": "3e-4",
        "optim.betas": "[0.9, 0.95]",
        "data.sessions": "[*, b]",
    }
    found, _ = parse_config(b'{"train": {"steps": 20, "x": null}}', "config.json")
    assert dict(flat(found)) == {"train.steps": "20", "train.x": "null"}


BOMB = "\n".join([f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)])
BAD = {
    "bomb": b"a0: &a0 [x]\n" + BOMB.encode(),
    "deep": b"a: " + b"[" * 500_000,
    "deep mappings": "".join(f"{' ' * n}a:\n" for n in range(900)).encode(),
    "half": b"a: {b: [1, ",
    "binary": b"\x00\xff\xfe",
    "a list": b"- 1\n",
    "nothing": b"",
    "a key that is a list": b"? [a, b]\n: c\n",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_none_is_one_line(name):
    found, fault = parse_config(BAD[name], "config.yaml")
    assert found == {}
    assert fault.startswith("config.yaml: no settings")
    assert "\n" not in fault


def test_numbers_above_zero():
    assert [positive(t) for t in ("2.5", "1e3", "0", "-1", "nan", "inf", "x", None, [3])] == [
        2.5,
        1000.0,
        *[None] * 7,
    ]
