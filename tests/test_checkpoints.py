"""Checkpoints in the formats of common training scripts. No file can run code."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from autocompress import models
from autocompress.data import DataInfo
from autocompress.errors import UserError
from autocompress.job import load_job

INFO = DataInfo(5, 1, (32, 32), (0.3,), (0.2,), tuple("abcde"))


def trained(seed: int = 1, info: DataInfo = INFO) -> dict[str, torch.Tensor]:
    """The weights of a test_resnet."""
    job = load_job(model="test_resnet", data="digits", name="test", seed=seed)
    return models.create(job, info).state_dict()


def create(path: Path, info: DataInfo | None = INFO, model: str = "test_resnet", **settings: Any) -> torch.nn.Module:
    return models.create(load_job(model=model, data="digits", name="test", checkpoint=path, **settings), info)


def same(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


def test_safetensors(tmp_path: Path) -> None:
    state = trained()
    save_file(state, tmp_path / "model.safetensors")
    assert same(create(tmp_path / "model.safetensors"), state)


def test_plain_state_dict(tmp_path: Path) -> None:
    state = trained()
    torch.save(state, tmp_path / "model.pth")
    assert same(create(tmp_path / "model.pth"), state)


def test_a_training_checkpoint_of_timm(tmp_path: Path) -> None:
    last, averaged = trained(1), trained(2)
    torch.save(
        {
            "epoch": 3,
            "arch": "test_resnet",
            "state_dict": {f"module.{name}": tensor for name, tensor in last.items()},
            "state_dict_ema": {f"module._orig_mod.{name}": tensor for name, tensor in averaged.items()},
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
            "version": 2,
            "args": argparse.Namespace(lr=0.1, mean=[0.25], std=[0.75]),
        },
        tmp_path / "checkpoint.pth.tar",
    )
    assert same(create(tmp_path / "checkpoint.pth.tar"), averaged)  # timm reports the accuracy of the average
    job = load_job(model="test_resnet", data="digits", name="test", checkpoint=tmp_path / "checkpoint.pth.tar")
    wanted = models.preprocessing(job)
    assert (wanted["mean"], wanted["std"], wanted["channels"]) == ((0.25,), (0.75,), 1)


def test_classes_and_channels_are_those_of_the_checkpoint_if_the_data_do_not_decide(tmp_path: Path) -> None:
    save_file(trained(), tmp_path / "model.safetensors")
    model = create(tmp_path / "model.safetensors", None)
    assert models.architecture(model)["num_classes"] == 5
    assert models.input_size(model)[0] == 1


def test_a_checkpoint_of_merged_branches(tmp_path: Path) -> None:
    job = load_job(model="repvgg_a0", data="digits", name="test")
    state = models.reparameterise(models.create(job, INFO)).state_dict()
    save_file(state, tmp_path / "merged.safetensors")
    assert same(create(tmp_path / "merged.safetensors", model="repvgg_a0"), state)


def test_a_checkpoint_with_other_classes_than_the_data(tmp_path: Path) -> None:
    save_file(trained(), tmp_path / "model.safetensors")
    other = DataInfo(2, 1, (32, 32), (0.3,), (0.2,), ("a", "b"))
    with pytest.raises(UserError, match=r"'fc\.weight' has 5 classes, the data has 2"):
        create(tmp_path / "model.safetensors", other)


def test_the_first_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    save_file(trained(), tmp_path / "model.safetensors")
    colour = DataInfo(5, 3, (32, 32), (0.3,) * 3, (0.2,) * 3, tuple("abcde"))
    with pytest.raises(UserError, match=r"'conv1\.0\.weight' has shape \(16, 1, 3, 3\), the model needs \(16, 3"):
        create(tmp_path / "model.safetensors", colour)


@pytest.mark.parametrize(
    ("change", "message"), [("less", "has no tensor 'bn1.weight'"), ("more", "the model has no tensor 'extra'")]
)
def test_missing_and_unexpected_tensors_are_named(tmp_path: Path, change: str, message: str) -> None:
    state = trained()
    if change == "less":
        del state["bn1.weight"]
    else:
        state["extra"] = torch.zeros(1)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        create(tmp_path / "model.safetensors")


class Harmful:
    """Would create a file if it were unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_file_with_code_is_not_unpickled(tmp_path: Path) -> None:
    torch.save({"state_dict": trained(), "hook": Harmful(tmp_path / "harm")}, tmp_path / "model.pth")
    with pytest.raises(UserError, match="with only tensors and plain values"):
        create(tmp_path / "model.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all, only text", None])
def test_broken_and_missing_files_give_one_sentence(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        create(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"hello", b"{}", b"abc", b"\x80\x02", b"e.", b"i\n", b"(lp0\n"])
def test_a_file_that_no_library_can_read_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(UserError) as raised:
        create(tmp_path / "model.pth")
    assert raised.value.message.startswith(
        (f"{tmp_path}/model.pth is not a checkpoint", f"{tmp_path}/model.pth is not a file")
    )


def test_a_truncated_file_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "model.pth")
    (tmp_path / "model.pth").write_bytes((tmp_path / "model.pth").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"model\.pth is not a checkpoint that torch or safetensors can read"):
        create(tmp_path / "model.pth")


def test_a_file_without_weights(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "model.pth")
    with pytest.raises(UserError, match="holds no weights"):
        create(tmp_path / "model.pth")


KEYS = ("model_state_dict", "net", "params", "model", "state", "module", "student", "teacher")
Wrapper = Callable[[dict[str, torch.Tensor]], Any]
WRAPPERS: dict[str, Wrapper] = {
    **{key: (lambda state, key=key: {key: state, "epoch": 3}) for key in KEYS},
    "state.model": lambda state: {"state": {"model": state}, "epoch": 3},
    "state.model.state_dict": lambda state: {"state": {"model": {"state_dict": state}}},
    "student and teacher": lambda state: {"teacher": {n: t * 0 for n, t in state.items()}, "student": state},
    "model.state_dict": lambda state: {"model": {"state_dict": state}},
    "an empty average": lambda state: {"state_dict": state, "state_dict_ema": {}, "model_ema": None},
    "an average that is only a counter": lambda state: {"model": state, "model_ema": {"decay": torch.tensor(0.9)}},
    "a full average": lambda state: {"model": {name: tensor * 0 for name, tensor in state.items()}, "model_ema": state},
    "an AveragedModel": lambda state: {"n_averaged": torch.tensor(3)} | {f"module.{n}": t for n, t in state.items()},
    "module.": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "_orig_mod.": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "model.": lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}},
    "model.module.": lambda state: {f"model.module.{name}": tensor for name, tensor in state.items()},
    "plain values beside": lambda state: {**state, "epoch": 3, "note": "mine", "lr": [0.1]},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_usual_wrappers(tmp_path: Path, wrap: Wrapper) -> None:
    state = trained()
    torch.save(wrap(state), tmp_path / "model.pth")
    assert same(create(tmp_path / "model.pth"), state)


@pytest.mark.parametrize("args", ["--lr 0.1", ["--lr", 0.1], 3, None, (1, 2), {1: 2}, {"mean": {}, "std": "a"}])
def test_arguments_of_any_type_are_accepted(tmp_path: Path, args: Any) -> None:
    state = trained()
    torch.save({"state_dict": state, "args": args, "arch": 5, "state_dict_ema": "none"}, tmp_path / "model.pth")
    assert same(create(tmp_path / "model.pth"), state)
    job = load_job(model="test_resnet", data="digits", name="test", checkpoint=tmp_path / "model.pth")
    assert models.preprocessing(job)["channels"] == 1


@pytest.mark.parametrize("mean", [0.25, "0.25", None, [], [0.1, 0.2], ["a"], float("nan"), True, {"r": 0.1}])
def test_an_average_of_any_type_is_accepted(tmp_path: Path, mean: Any) -> None:
    torch.save({"state_dict": trained(), "args": {"mean": mean, "std": 0}}, tmp_path / "model.pth")
    job = load_job(model="test_resnet", data="digits", name="test", checkpoint=tmp_path / "model.pth")
    wanted = models.preprocessing(job)
    default = (0.5, 0.5, 0.5)
    assert wanted["mean"] == ((0.25,) if mean == 0.25 else default)
    assert wanted["std"] == default
    assert models.create(job).pretrained_cfg["mean"]  # type: ignore[index]


@pytest.mark.parametrize(
    "content", [[torch.zeros(1)], torch.zeros(3), "text", 5, {"state_dict": [1]}, {"model": {"a": {"b": {"c": {}}}}}]
)
def test_files_with_other_contents_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(UserError, match="holds no weights"):
        create(tmp_path / "model.pth")


def test_the_format_does_not_depend_on_the_file_name(tmp_path: Path) -> None:
    state = trained()
    save_file(state, tmp_path / "really_safetensors.bin")
    assert same(create(tmp_path / "really_safetensors.bin"), state)
    torch.save(state, tmp_path / "really_torch.safetensors")
    assert same(create(tmp_path / "really_torch.safetensors"), state)


def test_a_folder_and_a_script_module_give_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder \(give the file in it, or, for a folder that timm saved"):
        create(tmp_path)
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "model.pt"))
    with pytest.raises(UserError, match=r"model\.pt cannot be read: .*TorchScript") as raised:
        create(tmp_path / "model.pt")
    assert "\n" not in str(raised.value)


def test_a_checkpoint_of_another_network_names_that_network(tmp_path: Path) -> None:
    other = models.create(load_job(model="test_vit", data="digits", name="test"), INFO).state_dict()
    torch.save({"arch": "test_vit", "state_dict": other}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"none of its \d+ tensors .* \(the file says that it is a 'test_vit'\)"):
        create(tmp_path / "model.pth")


@pytest.mark.parametrize("tensor", [torch.tensor(1.0), torch.zeros(0, 96), torch.eye(5).to_sparse()])
def test_a_classifier_of_an_unusual_shape(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save(trained() | {"fc.weight": tensor}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"'fc\.weight' (has shape|has 0 classes)") as raised:
        create(tmp_path / "model.pth")
    assert "\n" not in str(raised.value)


def test_sparse_weights(tmp_path: Path) -> None:
    state = trained()
    torch.save(state | {"fc.weight": state["fc.weight"].to_sparse()}, tmp_path / "model.pth")
    assert same(create(tmp_path / "model.pth"), state)


@pytest.mark.parametrize("tensors", [["fc.weight"], ["conv1.0.weight", "bn1.running_mean"], None])
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_weights_on_the_meta_device(tmp_path: Path, tensors: list[str] | None, wrapper: str | None) -> None:
    """torch.save does not store values of tensors on the device "meta"."""
    state = trained()
    state |= {name: state[name].to("meta") for name in tensors or state}
    torch.save(state if wrapper is None else {wrapper: state}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"model\.pth: '.*' .*has no values: it was saved on .* 'meta'") as raised:
        create(tmp_path / "model.pth")
    assert "\n" not in str(raised.value)
