"""What an ideal compiler makes of a graph: all that lies between two products is one kernel.

Products, attention and sums over tokens stand alone. Others that depend on each other, with none
of those in between, are a kernel that reads each tensor it needs and writes each that others need
once. Inductor's own fusion moves no less.
"""

from dataclasses import dataclass

import torch

ALONE = "aten.mm", "aten.addmm", "aten.sum.dim", "ndt3_dist."
VIEWS = "aten.t.", "aten.view.", "aten.detach.", "aten.unbind.", "aten.permute."


@dataclass
class Fused:
    """
    Attributes:
        alone: (operator, its inputs, its outputs) of those that stand alone.
        moved: Tensors that the other kernels read or write, as often as they do.
        kernels: Number of those.
    """

    alone: list[tuple[str, list[torch.Tensor], list[torch.Tensor]]]
    moved: list[torch.Tensor]
    kernels: int


def named(node: torch.fx.Node, *names: str) -> bool:
    return node.op == "call_function" and str(node.target).startswith(names)


def is_part(node: torch.fx.Node) -> bool:
    """Whether it takes one of several outputs."""
    return node.op == "call_function" and "getitem" in str(node.target)


def held(node: torch.fx.Node) -> torch.fx.Node:
    """Whose values a node shows: views have none of their own."""
    while named(node, *VIEWS) or (is_part(node) and named(node.args[0], *VIEWS)):  # pyright: ignore
        node = node.args[0]  # pyright: ignore[reportAssignmentType]
    return node


def maker(node: torch.fx.Node) -> torch.fx.Node:
    """What computes them."""
    return node.args[0] if is_part(node) else node  # pyright: ignore[reportReturnType]


def tensors(value) -> list[torch.Tensor]:
    if isinstance(value, (list, tuple)):
        return [t for one in value for t in tensors(one)]
    return [value] if isinstance(value, torch.Tensor) else []


def fused(graph: torch.fx.GraphModule) -> Fused:
    """A traced graph whose nodes know their values (`meta["val"]`)."""
    found, level = Fused([], [], 0), {}
    kernel: dict[torch.fx.Node, int] = {}
    moved: set[tuple] = set()
    for number, node in enumerate(graph.graph.nodes):
        made = [maker(held(n)) for n in node.all_input_nodes]
        level[node] = max((level[m] + named(m, *ALONE) for m in made), default=0)
        if node.op == "placeholder" or held(node) is not node or is_part(node):
            continue
        if named(node, *ALONE):
            shown = [t for n in node.all_input_nodes for t in tensors(n.meta["val"])]
            found.alone.append((str(node.target), shown, tensors(node.meta["val"])))
        elif node.op == "call_function":
            kernel[node] = number
            joined = {kernel[m] for m in made if m in kernel and level[m] == level[node]}
            kernel |= {n: number for n, k in kernel.items() if k in joined}
    for node in graph.graph.nodes:
        if held(node) is not node or is_part(node):
            continue
        for source in map(held, node.all_input_nodes):
            own, other = kernel.get(node), kernel.get(maker(source))
            if own != other:
                moved |= {(k, source) for k in (own, other) if k is not None}
    found.moved = [t for _, source in moved for t in tensors(source.meta["val"])]
    found.kernels = len(set(kernel.values()))
    return found
