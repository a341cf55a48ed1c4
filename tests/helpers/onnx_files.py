"""Tiny ONNX files of somebody else, whose output is known."""

import onnx
from onnx import TensorProto, helper


def write_means(path, shape, *, kind=TensorProto.FLOAT, before=()):
    """A graph that takes the mean of each channel; returns the path.

    Args:
        shape: of the input; text for what is open.
        kind: type of the input.
        before: (operation, number) pairs: arithmetic before the mean.
    """
    nodes, name, constants = [], "data", []
    for index, (operation, value) in enumerate(before):
        constants.append(helper.make_tensor(f"c{index}", TensorProto.FLOAT, [], [value]))
        nodes.append(helper.make_node(operation, [name, f"c{index}"], [f"x{index}"]))
        name = f"x{index}"
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [name], ["floats"], to=TensorProto.FLOAT))
        name = "floats"
    axes = [1, 2] if shape[-1] == 3 else [2, 3]
    constants.append(helper.make_tensor("axes", TensorProto.INT64, [2], axes))
    nodes.append(helper.make_node("ReduceMean", [name, "axes"], ["fc1"], keepdims=0))
    images = helper.make_tensor_value_info("data", kind, shape)
    means = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [shape[0], 3])
    graph = helper.make_graph(nodes, "means", [images], [means], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path
