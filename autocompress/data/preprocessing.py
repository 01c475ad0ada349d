"""From a picture to the tensor that a network reads: resize, crop and normalise, as timm does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from autocompress.data.jitter import quickened
from autocompress.data.split import DataInfo
from autocompress.errors import UserError
from autocompress.job import AugmentConfig

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
"""Names that ``timm.data.create_transform`` accepts."""
DEFAULT_CROP_PCT = 0.875
"""Default crop (timm's) for pictures of varying size, where neither job nor weights give one."""


def evaluation(info: DataInfo) -> Callable[[Image.Image], torch.Tensor]:
    """timm's evaluation transform for ``info``: a picture to float32 ``(C, H, W)``, normalised."""
    return _timm(info, normalize=True)


def evaluated_pixels(info: DataInfo) -> Callable[[Image.Image], torch.Tensor]:
    """:func:`evaluation` without normalisation: a picture to uint8 ``(C, H, W)``."""
    return _timm(info, normalize=False)


def augmented_pixels(info: DataInfo) -> Callable[[Image.Image], torch.Tensor]:
    """timm's training transform for ``info``: random resized crop, flip, and options of the job.

    Gives uint8 ``(C, H, W)``; with random erasing, float32 that is normalised.

    Raises:
        UserError: if timm does not know the policy of the job.
    """
    from timm.data import create_transform

    own = info.augment or AugmentConfig()
    try:
        made = create_transform(
            info.input_size,
            is_training=True,
            mean=info.mean,
            std=info.std,
            scale=(own.scale, 1.0),
            hflip=own.hflip,
            vflip=own.vflip,
            color_jitter=own.color_jitter if info.channels == 3 else 0.0,
            auto_augment=own.auto,
            re_prob=own.re_prob,
            re_mode="pixel",
            interpolation=info.interpolation,
            normalize=own.re_prob > 0,
        )
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        raise UserError(f"timm has no augmentation '{own.auto}'", "see 'augment' in docs/data.md") from error
    return quickened(made) if info.channels == 3 else made


def normalised(pixels: torch.Tensor, info: DataInfo) -> torch.Tensor:
    """Images ``(N, C, H, W)`` as float32, normalised as timm's transforms do it, to the last bit.

    uint8 images are normalised on their device; float32 images are normalised already.
    """
    if pixels.dtype != torch.uint8:
        return pixels
    mean, std, white = (
        torch.tensor(values, device=pixels.device).view(1, -1, 1, 1) for values in (info.mean, info.std, (255.0,))
    )
    return pixels.float().div_(white).sub_(mean).div_(std)


def resized(images: torch.Tensor, info: DataInfo) -> torch.Tensor:
    """uint8 images ``(N, C, h, w)`` resized and cropped as :func:`evaluation` does, still uint8.

    Raises:
        ValueError: if the images are not pictures of 1 or 3 channels.
    """
    if tuple(images.shape[2:]) == info.size and info.crop_pct == 1:
        return images
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images of {images.shape[1]} channels cannot be resized as pictures")
    change = _timm(info, normalize=False)
    pictures = (as_picture(image) for image in images)
    made = [change(picture) for picture in pictures]
    return torch.stack(made) if made else images.new_zeros((0, *info.input_size))


def recoloured(images: torch.Tensor, channels: int) -> torch.Tensor:
    """uint8 images ``(N, C, H, W)`` as grey (1) or colour (3), with Pillow's weights."""
    if images.shape[1] == channels:
        return images
    if channels == 1 and images.shape[1] == 3:
        weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)
        return ((images.int() * weights).sum(1, keepdim=True).add(0x8000) >> 16).to(torch.uint8)
    return images[:, :1].expand(-1, channels, -1, -1)


def steps_of(info: DataInfo) -> list[str]:
    """The steps of :func:`evaluation` in plain English, for deployment without timm."""
    channels, (height, width) = info.channels, info.size
    crop_pct, crop_mode, interpolation = info.crop_pct, info.crop_mode, info.interpolation
    scaled = [math.floor(side / crop_pct) for side in (height, width)]
    whole = "the whole picture" if crop_mode == "squash" else "keeping its aspect ratio,"
    if crop_mode == "squash":
        target = f"to {scaled[0]} x {scaled[1]} (height x width)"
    elif crop_mode == "border":
        target = f"until it just fits into {scaled[0]} x {scaled[1]} (height x width)"
    elif scaled[0] == scaled[1]:
        target = f"until its shorter side is {scaled[0]} pixels"
    else:
        target = f"until it just covers {scaled[0]} x {scaled[1]} (height x width)"
    steps = ["turn the picture upright by its EXIF orientation (PIL.ImageOps.exif_transpose)"] if info.exif else []
    steps += [
        f"convert the picture to {'RGB' if channels == 3 else 'grey (Pillow mode L)'}; grey levels of more than 8 bits "
        "are first scaled so that the highest possible value becomes 255 and white stays white (Pillow would clip "
        "them, and does not invert a 16-bit TIFF file whose white is zero)",
        f"resize {whole} {target}, {interpolation}, with antialiasing (Pillow's resize)",
    ]
    if crop_mode == "border":
        fill = ", ".join(str(round(255 * value)) for value in info.mean)
        steps.append(f"crop or pad it to {height} x {width} around its centre, with {fill} as the colour of the border")
    else:
        steps.append(f"crop the centre, {height} x {width}")
    return [
        *steps,
        "divide the values by 255",
        f"subtract the mean ({_list(info.mean)}) and divide by the std ({_list(info.std)}) of each channel",
        "order the axes as batch, channels, height, width; float32",
    ]


def _timm(info: DataInfo, *, normalize: bool) -> Any:
    from timm.data import create_transform

    return create_transform(
        info.input_size,
        is_training=False,
        mean=info.mean,
        std=info.std,
        crop_pct=info.crop_pct,
        crop_mode=info.crop_mode,
        interpolation=info.interpolation,
        normalize=normalize,
    )


def as_picture(image: torch.Tensor) -> Image.Image:
    """A uint8 image ``(C, H, W)`` of 1 or 3 channels as a picture."""
    array = image.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
