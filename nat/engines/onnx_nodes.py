"""Nodes of an ONNX graph, one by one. Operators: https://onnx.ai/onnx/operators"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

MICROSOFT = "com.microsoft"  # operators of ONNX Runtime
OPSET, IR_VERSION = 20, 10
FLOAT, INT64, BOOL, DOUBLE = 1, 7, 9, 11  # of TensorProto.DataType


class Graph:
    """A graph that is written node by node; tensors are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def input(self, name: str, kind: str, *shape: str | int) -> str:
        self.inputs.append(_described(name, kind, shape))
        return name

    def option(self, name: str, default: float) -> str:
        """An input, a scalar of float32, that need not be given."""
        from onnx import numpy_helper

        if name not in [known.name for known in self.inputs]:
            self.constants.append(numpy_helper.from_array(np.array(default, dtype=np.float32), name))
            self.input(name, "FLOAT")
        return name

    def output(self, tensor: str, name: str, kind: str, *shape: str | int) -> None:
        self.node("Identity", tensor, names=[name])
        self.outputs.append(_described(name, kind, shape))

    def constant(self, values: Any) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def known(self, values: np.ndarray | str) -> str:
        """A constant, or what is a tensor of the graph already."""
        return values if isinstance(values, str) else self.constant(values)

    def ints(self, *values: int) -> str:
        """A constant (N) of int64, such as a shape or axes."""
        return self.constant(np.array(values, dtype=np.int64))

    def real(self, value: float) -> str:
        """A scalar constant of float32."""
        return self.constant(np.float32(value))

    def node(self, operator: str, *inputs: str, names: list[str] | None = None, **attributes: Any) -> str:
        """One node, and the name of its first output. names: of its outputs; None: it has one."""
        from onnx import helper

        names = names or [f"{operator}_{len(self.nodes)}"]
        domain = attributes.pop("domain", "")
        self.nodes.append(helper.make_node(operator, list(inputs), names, domain=domain, **attributes))
        return names[0]

    def nodes_of(self, operator: str, number: int, *inputs: str, **attributes: Any) -> list[str]:
        """One node, and the names of its outputs."""
        names = [f"{operator}_{len(self.nodes)}_{i}" for i in range(number)]
        self.node(operator, *inputs, names=names, **attributes)
        return names

    def part(self, name: str) -> GraphProto:
        """As the body of a loop in another graph, whose tensors it knows by name; its own names must be others."""
        from onnx import helper

        return helper.make_graph(self.nodes, name, self.inputs, self.outputs)

    def model(self) -> ModelProto:
        from onnx import helper

        graph = helper.make_graph(self.nodes, "nat", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="nat")


def _described(name: str, kind: str, shape: Sequence[str | int]) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, getattr(TensorProto, kind), list(shape))
