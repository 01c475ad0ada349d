"""Times linear layers of 2 and 4 bits (MatMulNBits), compared with 8 bits and float, on one thread.

MatMulNBits has float inputs and outputs, and multiplies in 8 bits inside (``accuracy_level`` 4). It
is compared with the float product, an 8-bit layer between floats (with quantization and
dequantization), and an 8-bit layer inside an integer network (uint8 inputs and outputs). All
alternate. Ratios are relative to the last one, so few bits are slower if a ratio is above 1.

    python benchmarks/few_bits.py [--rows 1 4 16 49 196] [--shapes 512x512 192x768] [--seconds 4]
"""

from __future__ import annotations

import argparse
import itertools
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from autocompress.devices.timing import block
from autocompress.files import write_json
from autocompress.runtime import session_options
from int8 import environment, ratio

BLOCK = 32
"""Number of weights per scale in MatMulNBits."""
INTEGERS = "int8 in an integer network"


def model(nodes: list[NodeProto], arrays: dict[str, Any], rows: int, width: int, kind: int) -> ModelProto:
    """One layer from ``x`` ``(rows, width)`` to ``y``."""
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", kind, (rows, width))],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def float_layer(rows: int, width: int, outputs: int) -> ModelProto:
    """A float product."""
    weight = np.random.default_rng(0).standard_normal((width, outputs), dtype=np.float32)
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, rows, width, TensorProto.FLOAT)


def integer_layer(rows: int, width: int, outputs: int, *, between_floats: bool) -> ModelProto:
    """Gemm with uint8 activations, and int8 weights with a scale per channel."""
    random = np.random.default_rng(0)
    arrays = {
        "w": random.integers(-127, 128, (outputs, width)).astype(np.int8),
        "ws": np.full(outputs, 0.01, np.float32),
        "wz": np.zeros(outputs, np.int8),
        "b": np.zeros(outputs, np.int32),
        "bs": np.full(outputs, 0.0005, np.float32),
        "xs": np.float32(0.05),
        "ys": np.float32(0.5),
        "z": np.uint8(128),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["xq" if between_floats else "x", "xs", "z"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bf"], axis=0),
        helper.make_node("Gemm", ["xf", "wf", "bf"], ["y" if between_floats else "yf"], transB=1),
    ]
    if between_floats:
        nodes.insert(0, helper.make_node("QuantizeLinear", ["x", "xs", "z"], ["xq"]))
        return model(nodes, arrays, rows, width, TensorProto.FLOAT)
    nodes.append(helper.make_node("QuantizeLinear", ["yf", "ys", "z"], ["y"]))
    return model(nodes, arrays, rows, width, TensorProto.UINT8)


def few_bits_layer(rows: int, width: int, outputs: int, bits: int) -> ModelProto:
    """MatMulNBits with weights of ``bits``."""
    random, blocks = np.random.default_rng(0), width // BLOCK
    arrays = {
        "w": random.integers(0, 256, (outputs, blocks, BLOCK * bits // 8)).astype(np.uint8),
        "ws": np.full(outputs * blocks, 0.01, np.float32),
    }
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "ws"],
        ["y"],
        domain="com.microsoft",
        K=width,
        N=outputs,
        bits=bits,
        block_size=BLOCK,
        accuracy_level=4,
    )
    return model([node], arrays, rows, width, TensorProto.FLOAT)


def row(rows: int, width: int, outputs: int, seconds: float) -> dict[str, Any]:
    """All forms of one layer, timed alternately."""
    layers = {
        INTEGERS: integer_layer(rows, width, outputs, between_floats=False),
        "int8 between floats": integer_layer(rows, width, outputs, between_floats=True),
        "float": float_layer(rows, width, outputs),
        "MatMulNBits, 4 bits": few_bits_layer(rows, width, outputs, 4),
        "MatMulNBits, 2 bits": few_bits_layer(rows, width, outputs, 2),
    }
    runs, refused = {}, {}
    random = np.random.default_rng(0)
    for name, layer in layers.items():
        try:
            session = onnxruntime.InferenceSession(
                layer.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"]
            )
            is_float = session.get_inputs()[0].type == "tensor(float)"
            values = random.standard_normal((rows, width)) if is_float else random.integers(0, 256, (rows, width))
            feed = {"x": values.astype(np.float32 if is_float else np.uint8)}
            session.run(None, feed)
            runs[name] = partial(session.run, None, feed)
        except Exception as error:  # exceptions of the runtime have no common base
            refused[name] = str(error).strip().splitlines()[0]
    timed: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(timed[INTEGERS]) < 6:
        for name in random.permutation(list(runs)):
            timed[name].append(block(runs[name], time.thread_time))
    base = np.array(timed[INTEGERS])
    ratios = {name: ratio(np.array(values), base) for name, values in timed.items() if name != INTEGERS}
    return {"rows": rows, "inputs": width, "outputs": outputs, "over_integers": ratios, "refused": refused}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 49, 196])
    parser.add_argument("--shapes", nargs="+", default=["512x512", "192x768", "1280x1000"], help="inputs x outputs")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds for measuring each layer")
    parser.add_argument("--out", type=Path, default=Path("results/placement/few_bits.json"))
    arguments = parser.parse_args()
    found = []
    for shape, rows in itertools.product(arguments.shapes, arguments.rows):
        width, outputs = (int(size) for size in shape.split("x"))
        found.append(row(rows, width, outputs, arguments.seconds))
        told = [f"{name}: {value['median']:.2f}" for name, value in found[-1]["over_integers"].items()]
        print(f"{rows:>4} x {shape:<10}", "; ".join(told), *found[-1]["refused"].values(), flush=True)
    write_json(arguments.out, {"environment": environment(), "layers": found})


if __name__ == "__main__":
    main()
