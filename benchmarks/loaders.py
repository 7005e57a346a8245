# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""One loader over one corpus for some seconds: a process of `benchmarks/loader.py`.

Prints JSON: samples/s, tokens/s where rows are packed, resident memory of it and its workers in MB.

Example:
    python benchmarks/loaders.py webdataset CORPUS 0 8
"""

import argparse
import itertools
import json
import signal
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil

from ndt3_dist.shards.npy import parse_npy
from ndt3_dist.shards.write import npy_bytes

BATCH = 32
ROWS = 128
"""Of a step of one rank: a third of what each of 8 has with configs/big_350m_2kh.yaml."""
WARM = 2000
"""Samples before the clock starts."""


def ours_read(corpus: str, workers: int) -> Iterator[tuple[int, int]]:
    """Windows read, verified and decoded in the stream's order; workers as the others have them."""
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    from ndt3_dist.shards.corpus import Corpus

    class Windows(IterableDataset):
        def __iter__(self):
            stream, opened, info = _stream(corpus, 0), Corpus(corpus), get_worker_info()
            first, each = (info.id, info.num_workers) if info else (0, 1)
            numbers = (n for p in itertools.count() for n in stream.plan.row(p)[2].tolist())
            for number in itertools.islice(numbers, first, None, each):
                yield opened.read(number)

    if not workers:
        for _ in Windows():
            yield 1, 0
    for batch in DataLoader(Windows(), BATCH, num_workers=workers, collate_fn=joined):
        yield len(parted(batch)), 0


def ours_packed(corpus: str, workers: int) -> Iterator[tuple[int, int]]:
    """Whole steps as the model gets them: read, verified, tokenised, packed."""
    from ndt3_dist.data.order import Cursor

    for step in _stream(corpus, workers).steps(Cursor()):
        yield step.samples, step.tokens


def first_steps(corpus: str) -> dict:
    """Seconds until the stream is open, until first steps at rows 0 and 1,000,000; an epoch."""
    from ndt3_dist.data.order import Cursor

    began = time.perf_counter()
    stream = _stream(corpus, 0)
    opened = time.perf_counter()
    next(iter(stream.steps(Cursor())))
    first = time.perf_counter()
    next(iter(stream.steps(Cursor(10**6))))
    resumed, tokens = time.perf_counter(), 0
    for step in stream.steps(Cursor()):
        tokens += step.tokens
        if step.after.samples_seen >= stream.plan.sources.num_samples:
            break
    return {
        "open s": f"{opened - began:.2f}",
        "first step s": f"{first - opened:.2f}",
        "first step at 1,000,000 s": f"{resumed - first:.2f}",
        "an epoch, tokens/s": f"{tokens / (time.perf_counter() - resumed):,.0f}",
    }


def _stream(corpus: str, workers: int):
    from ndt3_dist.config import PROJECT, find_file, load_config
    from ndt3_dist.data.data_config import DataConfig
    from ndt3_dist.data.feed import Feed
    from ndt3_dist.data.stream import Stream
    from ndt3_dist.model.tokenise import NDT3Packing
    from ndt3_dist.shards.corpus import Corpus
    from ndt3_dist.train.pretrain_config import PretrainConfig

    file = find_file("big_350m_2kh.yaml", "configs")
    model = load_config(PretrainConfig, PROJECT / file, ["data.corpus=x"]).ndt3
    data = DataConfig(row_tokens=4096, block_samples=1000, lanes=8, workers=workers)
    opened = Corpus(corpus)
    model = model.model_copy(update={"context_tokens": False})
    return Stream(Feed(opened, data, NDT3Packing(opened.manifest.sessions, model), 0, ROWS))


def webdataset(corpus: str, workers: int) -> Iterator[tuple[int, int]]:
    import webdataset as wds

    urls = sorted(str(p) for p in Path(corpus, "shards").glob("*.tar"))
    dataset = wds.WebDataset(urls, shardshuffle=len(urls)).repeat().shuffle(1000)
    dataset = dataset.batched(BATCH, collation_fn=joined)
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=workers) if workers else dataset
    for batch in loader:
        yield len(parted(batch)), 0


def joined(samples: list[dict]) -> tuple:
    """A batch as one tensor of bytes, which workers hand over in shared memory, and lengths.

    Arrays as they are, or .npy files as bytes.
    """
    import torch

    kinds = bytes | memoryview | np.ndarray
    parts = [v for s in samples for v in s.values() if isinstance(v, kinds)]
    files = [npy_bytes(v) if isinstance(v, np.ndarray) else v for v in parts]
    data = torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8)
    return data, [len(file) for file in files], len(files) // len(samples)


def parted(batch: tuple) -> list[list[np.ndarray]]:
    """The arrays of a batch, window by window."""
    data, lengths, members = batch
    content, at, arrays = data.numpy().tobytes(), 0, []
    for length in lengths:
        arrays.append(parse_npy(content, "", at, length))
        at += length
    return [arrays[i : i + members] for i in range(0, len(arrays), members)]


def energon(corpus: str, workers: int) -> Iterator[tuple[int, int]]:
    import megatron.energon as me
    from megatron.energon.flavors.webdataset import BaseWebdatasetFactory

    root = Path(corpus)
    if not (root / ".nv-meta" / "dataset.yaml").exists():
        paths = sorted(str(p.relative_to(root)) for p in (root / "shards").glob("*.tar"))
        BaseWebdatasetFactory.prepare_dataset(
            root, paths, split_parts_ratio=[("train", 1.0)], workers=2
        )
        (root / ".nv-meta" / "dataset.yaml").write_text(
            "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
        )

    @me.stateless
    def cook(sample):
        files = {k: bytes(v) for k, v in sample.items() if k.endswith(".npy")}
        return {"__key__": sample["__key__"], **files}

    class Task(me.DefaultTaskEncoder):
        cookers = [me.Cooker(cook)]
        decoder = None

        @me.stateless
        def batch(self, samples):
            return joined(samples)

        def encode_batch(self, batch):
            return batch

    config = me.WorkerConfig(rank=0, world_size=1, num_workers=workers)
    dataset = me.get_train_dataset(
        root,
        batch_size=BATCH,
        shuffle_buffer_size=1000,
        max_samples_per_sequence=100,
        task_encoder=Task(),
        worker_config=config,
    )
    for batch in me.get_savable_loader(dataset):
        yield len(parted(batch)), 0


def mosaicml_streaming(corpus: str, workers: int) -> Iterator[tuple[int, int]]:
    import streaming
    from torch.utils.data import DataLoader

    out = Path(corpus, "mds")
    if not out.exists():
        columns = {"spikes": "bytes", "covariates": "bytes"}
        with streaming.MDSWriter(out=str(out), columns=columns) as writer:
            for arrays in _windows(corpus):
                writer.write(arrays)
    streaming.base.util.clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(local=str(out), shuffle=True, batch_size=BATCH)
    while True:
        for batch in DataLoader(dataset, BATCH, num_workers=workers, collate_fn=joined):
            yield len(parted(batch)), 0


def litdata(corpus: str, workers: int) -> Iterator[tuple[int, int]]:
    import litdata as ld

    out = Path(corpus, "litdata")
    if not out.exists():
        windows = list(_windows(corpus))
        ld.optimize(
            fn=windows.__getitem__,
            inputs=list(range(len(windows))),
            output_dir=str(out),
            chunk_bytes="8MB",
            num_workers=1,
            start_method="fork",
        )
    dataset = ld.StreamingDataset(str(out), shuffle=True)
    options = {"batch_size": BATCH, "num_workers": workers, "collate_fn": joined}
    loader = ld.StreamingDataLoader(dataset, **options)
    while True:
        for batch in loader:
            yield len(parted(batch)), 0


def _windows(corpus: str) -> Iterator[dict]:
    import webdataset as wds

    urls = sorted(str(p) for p in Path(corpus, "shards").glob("*.tar"))
    for sample in wds.WebDataset(urls, shardshuffle=False):
        yield {k: sample[f"{k}.npy"] for k in ("spikes", "covariates")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("loader")
    parser.add_argument("corpus", help="folder; others put their own format into it")
    parser.add_argument("workers", type=int)
    parser.add_argument("seconds", type=float)
    args = parser.parse_args()
    name = args.loader
    if name == "ndt3_dist, first steps":
        print(json.dumps(first_steps(args.corpus)), flush=True)
        return
    loaders = {
        "ndt3_dist, read": ours_read,
        "ndt3_dist, packed": ours_packed,
        "webdataset": webdataset,
        "energon": energon,
        "mosaicml-streaming": mosaicml_streaming,
        "litdata": litdata,
    }
    batches, warm = loaders[name](args.corpus, args.workers), 0
    while warm < WARM:
        warm += next(batches)[0]
    began, samples, tokens = time.perf_counter(), 0, 0
    while time.perf_counter() - began < args.seconds:
        more, packed = next(batches)
        samples, tokens = samples + more, tokens + packed
    took, me = time.perf_counter() - began, psutil.Process()
    family = [me, *me.children(recursive=True)]
    package = name.split(",")[0].replace("energon", "megatron-energon")
    found = {
        "version": version(package),
        "samples/s": samples / took,
        "MB": sum(p.memory_info().rss for p in family) / 1e6,
    }
    if tokens:
        found["tokens/s"] = tokens / took
    print(json.dumps(found), flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would cry over them
    for process in reversed(family):  # some loaders hang at their end, and their workers with them
        process.kill()


if __name__ == "__main__":
    main()
