"""Tiny ONNX files of somebody else, whose output is known."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


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


def write_yunet(path, box: tuple[float, float], points: Sequence[tuple[float, float]]) -> None:
    """A detector in YuNet's format, which OpenCV runs: each red cell of 8x8 pixels of a photograph is a face.

    For each stride there are maps of 8x8, 16x16 and 32x32 pixels a number: score ("cls" and "obj"), box and
    landmarks. Here only the finest finds anything.

    Args:
        box: width and height of each face, around the top left corner of its cell.
        points: its five landmarks, counted from there.
    """
    nodes, constants, outputs = [], [], []

    def constant(name: str, value) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    for stride in (8, 16, 32):
        red = np.zeros((1, 3, stride, stride), np.float32)
        if stride == 8:
            red[0, 2], red[0, 1] = 1 / (255 * 64), -1 / (255 * 64)  # BGR: mean of red less that of green
        sizes = [0, 0, *np.log(np.divide(box, stride))]
        values = {"cls": [0], "obj": [1], "bbox": sizes, "kps": np.divide(points, stride).ravel()}
        for kind, bias in values.items():
            name, count = f"{kind}_{stride}", len(bias)
            weight = red if kind == "cls" else np.zeros((count, 3, stride, stride), np.float32)
            inputs = ["input", constant(f"{name}.w", weight), constant(f"{name}.b", np.float32(bias))]
            shape = constant(f"{name}.shape", np.array([1, -1, count]))
            nodes += [
                helper.make_node("Conv", inputs, [f"{name}.map"], strides=[stride] * 2),
                helper.make_node("Transpose", [f"{name}.map"], [f"{name}.last"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}.last", shape], [name]),
            ]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, count]))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])
    graph = helper.make_graph(nodes, "yunet", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
