"""Random graphs for property tests."""

import onnx
from hypothesis import strategies as st

from tests.training.attach.networks import Writer


@st.composite
def random_graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Sample a graph of sums, activations and matrix products over [N, 4]."""
    write = Writer(17)
    values = [write.input("x", 4), write.input("y", 4)]
    for _ in range(draw(st.integers(2, 9))):
        recent = st.sampled_from(values[-4:])
        match draw(st.sampled_from(["Relu", "Add", "MatMul", "MatMul"])):
            case "Add":
                values.append(write.add("Add", draw(recent), draw(recent)))
            case "MatMul":
                values.append(write.add("MatMul", draw(recent), write.weight(4, 4)))
            case operator:
                values.append(write.add(operator, draw(recent)))
    write.linear(values[-1], 4, 3, "answer")
    write.output("answer", 3)
    return write.model()
