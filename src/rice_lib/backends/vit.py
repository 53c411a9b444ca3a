"""The ViT: transformers' `ViTForImageClassification`, dense or attending to the foreground patches alone.

Four fifths of every rice photograph is black background. With `foreground_patches` K in its configuration the model
embeds and attends to the K brightest patches only. Each keeps its own position embedding, so the weights file is that
of the dense model, and either form loads the other's. The choice is made inside the graph (TopK and Gather), so it
travels with an export. That form also skips what nobody reads: its last layer computes the class token only.

With `aligned_frame` the model first lays the grain into a small canonical frame (`backends.align`), which removes
scale, place, direction and colour, and attends to every patch of that frame. Its weights file, too, is the dense one,
unless convolutions come before the patches (`stem_channels`).

`PixelClassifier` puts the normalisation in front: bytes in, logits out. It is what is evaluated, exported and served.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import ViTConfig, ViTForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.vit.modeling_vit import ViTAttention, ViTEmbeddings, ViTLayer, eager_attention_forward
from transformers.utils import logging

from rice_lib.backends.align import GrainAlignment, average
from rice_lib.backends.grain_features import FEATURES, FeatureHead, GrainFeatures
from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json
from rice_lib.contract.decode import IMAGE_SIZE, NORMALISE_MEAN, NORMALISE_STD

PROVENANCE_FILE = "provenance.json"

STEM_STRIDE = 8

MAX_FLOAT32_PATCHES = 2**24 // (255 * 48 + 1)
"""1,370: 37 x 37."""


class RiceViTConfig(ViTConfig):
    """`ViTConfig` with five keys more; still `model_type: vit`, so plain transformers loads weights without a stem."""

    foreground_patches: int | None = None
    aligned_frame: list[int] | None = None
    """Height and width in pixels."""
    stem_channels: int | None = None
    """Of the first convolution of a stem before the patches of the aligned frame; null embeds pixels."""
    stem_depth: int = 1
    """Convolutions at each of the stem's three resolutions."""
    grain_features: bool = False
    """Whether the head reads the grain's size, outline, colour and texture beside the class token."""


class ForegroundEmbeddings(ViTEmbeddings):
    """Patch and position embeddings of the K brightest patches, behind the class token."""

    def __init__(self, config: RiceViTConfig) -> None:
        super().__init__(config)
        assert config.foreground_patches is not None
        self.keep = min(config.foreground_patches, self.patch_embeddings.num_patches)

    def forward(  # type: ignore[override]  # the model passes the dense form's options; none applies here
        self, pixel_values: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Embed float `[N, 3, H, W]` as `[N, 1 + K, hidden_size]`."""
        patches = cut_patches(pixel_values, self.patch_embeddings.projection.kernel_size[0])
        chosen = brightest(patches, self.keep)
        kept = patches.gather(1, chosen.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
        projection = self.patch_embeddings.projection
        tokens = nn.functional.linear(kept, projection.weight.flatten(1), projection.bias)
        tokens = tokens + self.position_embeddings[0, 1:][chosen]
        first = self.cls_token + self.position_embeddings[:, :1]
        return self.dropout(torch.cat([first.expand(tokens.shape[0], -1, -1), tokens], dim=1))


def cut_patches(pixel_values: torch.Tensor, side: int) -> torch.Tensor:
    """Cut `[N, C, H, W]` into `[N, patches, C * side^2]`, in reading order, values as a convolution has them."""
    count, channels, height, width = pixel_values.shape
    grid = pixel_values.reshape(count, channels, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, channels * side * side)


class AlignedEmbeddings(ViTEmbeddings):
    """Patch and position embeddings of the grain's aligned frame, behind the class token.

    The frame's patches have the position embeddings of the patches in the middle of the dense model's square. A stem of
    convolutions before them learns from fewer images than patches of pixels do (Xiao et al. 2021, "Early convolutions
    help transformers see better", arXiv:2106.14881).
    """

    def __init__(self, config: RiceViTConfig) -> None:
        super().__init__(config)
        assert config.aligned_frame is not None
        height, width = config.aligned_frame
        self.alignment = GrainAlignment(IMAGE_SIZE, height, width)
        patch = self.patch_embeddings.projection.kernel_size[0]
        self.side, self.rows, self.columns = (length // patch for length in (IMAGE_SIZE, height, width))
        self.stem: nn.Module = nn.Identity()
        if config.stem_channels is not None:
            self.stem = convolutional_stem(config.stem_channels, config.stem_depth)
            rest = patch // STEM_STRIDE
            projection = nn.Conv2d(4 * config.stem_channels, config.hidden_size, rest, rest)
            self.patch_embeddings.projection = projection

    def forward(  # type: ignore[override]  # the model passes the dense form's options; none applies here
        self, pixel_values: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Float `[N, 3, H, W]` to `[N, 1 + patches of the frame, hidden_size]`."""
        frame = self.alignment(pixel_values) - 1
        tokens = self.patch_embeddings.projection(self.stem(frame)).flatten(2).transpose(1, 2)
        square = self.position_embeddings[:, 1:].unflatten(1, (self.side, self.side))
        top, left = (self.side - self.rows) // 2, (self.side - self.columns) // 2
        tokens = tokens + square[:, top : top + self.rows, left : left + self.columns].flatten(1, 2)
        first = self.cls_token + self.position_embeddings[:, :1]
        return self.dropout(torch.cat([first.expand(tokens.shape[0], -1, -1), tokens], dim=1))


def convolutional_stem(channels: int, depth: int) -> nn.Sequential:
    """Build three times `depth` normalised convolutions, the first of each of stride 2 and twice as many channels."""
    layers: list[nn.Module] = []
    for given, out in ((3, channels), (channels, 2 * channels), (2 * channels, 4 * channels)):
        for number in range(depth):
            first = number == 0
            layers += [nn.Conv2d(given if first else out, out, 3, 2 if first else 1, 1, bias=False)]
            layers += [nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # a quarter faster on a CPU


def brightest(patches: torch.Tensor, keep: int) -> torch.Tensor:
    """Find the patches with the largest mean: indices int64 `[N, keep]` of normalised values `[N, patches, values]`.

    Equal patches (pure black background, above all) are taken in reading order. Runtimes break ties of TopK each in
    their own way, so the order is made part of the key: brightness in 1/48 grey levels times the number of patches (256
    at least), less the patch's number. That is exact: for 256 patches it is at most 255 * 48 * 256 = 3.1 million, and
    float32 holds integers up to 16.8 million; more than `MAX_FLOAT32_PATCHES` are ordered in float64. The 0.03 keeps
    the rounding boundary away from every sum of 768 bytes (those fall on sixteenths), so that no runtime's last bit
    moves a patch across it.
    """
    count = patches.shape[1]
    grey = patches.float().mean(-1) * NORMALISE_STD + NORMALISE_MEAN
    level = torch.floor(grey * 48 + 0.53)
    if count > MAX_FLOAT32_PATCHES:
        level = level.double()
    number = torch.arange(count, device=patches.device, dtype=level.dtype)
    return torch.topk(level * max(256, count) - number, keep, dim=1).indices


class ClassTokenAttention(ViTAttention):
    """Self-attention of the class token alone: one row of queries, every token's keys and values."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend: float `[N, tokens, hidden_size]` to `[N, 1, hidden_size]`, and weights `[N, heads, 1, tokens]`."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        query = self._heads(self.q_proj(hidden_states[:, :1]))
        key, value = self._heads(self.k_proj(hidden_states)), self._heads(self.v_proj(hidden_states))
        dropout = self.attention_dropout if self.training else 0.0
        # an image's patches are never masked: what is handed in is a mask of zeros, with a row for every token
        mixed, weights = attend(self, query, key, value, None, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(mixed.reshape(*query.shape[:1], 1, -1)), weights

    def _heads(self, values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class ClassTokenLayer(ViTLayer):
    """A last encoder layer for a classifier, which reads the class token only; the weights of an ordinary layer."""

    def __init__(self, config: RiceViTConfig) -> None:
        super().__init__(config)
        self.attention = ClassTokenAttention(config)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Turn float `[N, tokens, hidden_size]` into `[N, 1, hidden_size]`, the first row of what `ViTLayer` gives."""
        mixed, _ = self.attention(self.layernorm_before(hidden_states), attention_mask, **kwargs)
        token = hidden_states[:, :1] + self.dropout(mixed)
        return token + self.dropout(self.mlp(self.layernorm_after(token)))


class RiceViTForImageClassification(ViTForImageClassification):
    """`ViTForImageClassification` that honours `foreground_patches`, `aligned_frame` and `grain_features`."""

    config_class = RiceViTConfig

    def __init__(self, config: RiceViTConfig) -> None:
        super().__init__(config)
        if config.foreground_patches is not None or config.aligned_frame is not None:
            form = ForegroundEmbeddings if config.aligned_frame is None else AlignedEmbeddings
            self.vit.embeddings = form(config)
            self.vit.layers[-1] = ClassTokenLayer(config)
            self.post_init()
        if config.grain_features:
            self.features = GrainFeatures()
            head: Any = FeatureHead(config.hidden_size + FEATURES, int(config.num_labels or 0))
            self.classifier = head

    @property
    def step(self) -> int:
        """The side in pixels of the squares whose means are all that the model reads."""
        embeddings: nn.Module = self.vit.embeddings
        if isinstance(embeddings, AlignedEmbeddings) and not self.config.grain_features:
            return embeddings.alignment.step
        return 1

    def forward(  # type: ignore[override]  # of the base class's options, none but these is used
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **options: Any
    ) -> Any:
        """Classify float `[N, 3, H, W]`; with class numbers `labels` `[N]`, compute the loss too."""
        if not self.config.grain_features:
            return super().forward(pixel_values, labels=labels, **options)
        logits = self.classifier(self.evidence(pixel_values))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def evidence(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Compute what a head with `grain_features` reads: float32 `[N, hidden_size + FEATURES]` of `[N, 3, H, W]`."""
        token = self.vit(pixel_values).last_hidden_state[:, 0]
        return torch.cat([token.float(), self.features(pixel_values)], dim=1)

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """Load without a progress bar: it lasts milliseconds, and stays in a notebook for good."""
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            return super().from_pretrained(*args, **options)
        finally:
            if shown:
                logging.enable_progress_bar()


class PixelClassifier(nn.Module):
    """Bytes to logits: uint8 `[N, 224, 224, 3]` RGB in, float32 `[N, classes]` out."""

    def __init__(self, model: RiceViTForImageClassification) -> None:
        super().__init__()
        self.model = model

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        names = {int(number): str(name) for number, name in (self.model.config.id2label or {}).items()}
        return tuple(names[number] for number in sorted(names))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise and classify."""
        pixels = normalise(images, self.model.dtype, self.model.step)
        return self.model(pixel_values=pixels).logits.float()


def normalise(images: torch.Tensor, dtype: torch.dtype = torch.float32, step: int = 1) -> torch.Tensor:
    """Normalise uint8 `[N, H, W, 3]`, or its means of `step` x `step` pixels, to [-1, 1]: `[N, 3, H / step, W / step]`.

    Means come first, so that the rest has a quarter of the pixels; a mean of four bytes is exact in float32.
    """
    pixels = average(images.permute(0, 3, 1, 2).to(dtype, copy=True), step)
    return pixels.sub_(NORMALISE_MEAN).div_(NORMALISE_STD)  # in place: new memory for a batch costs as much again


def load_checkpoint(directory: Path) -> RiceViTForImageClassification:
    """Load a fine-tuned checkpoint (`config.json`, `model.safetensors`) in evaluation mode.

    Raises:
        RiceError: the directory holds no checkpoint of ours, or a damaged one.
    """
    weights = directory / "model.safetensors"
    if not (directory / "config.json").is_file() or not weights.is_file():
        raise RiceError(f"{directory}: no checkpoint here (config.json and model.safetensors); run notebook 04 first")
    try:
        return RiceViTForImageClassification.from_pretrained(directory, local_files_only=True).eval()
    except SafetensorError as error:
        raise RiceError(f"{weights}: cut off or damaged ({error}); copy it again") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise RiceError(f"{directory}: not a ViT checkpoint ({str(error).strip().splitlines()[0]})") from None


def load_pixel_classifier(directory: Path) -> PixelClassifier:
    """Load a checkpoint as `load_checkpoint`, with the normalisation in front."""
    return PixelClassifier(load_checkpoint(directory)).eval()


def read_provenance(directory: Path) -> dict[str, Any]:
    """Read what made a checkpoint, as notebook 04 wrote it beside the weights; empty where nothing was written."""
    file = directory / PROVENANCE_FILE
    return read_json(file) if file.is_file() else {}


def attended(images: np.ndarray, config: RiceViTConfig) -> np.ndarray:
    """Show what a model attends to: its aligned frames, enlarged, on black, or the images with the rest dimmed.

    Args:
        images: uint8 `[N, H, W, 3]`.
        config: the model's.

    Returns:
        uint8 `[N, H, W, 3]`.
    """
    if config.aligned_frame is None:
        assert isinstance(config.patch_size, int)
        return dim_unattended(images, config.foreground_patches, config.patch_size)
    height, width = config.aligned_frame
    pixels = lay_frames(GrainAlignment(IMAGE_SIZE, height, width), images)
    times = min(images.shape[1] // height, images.shape[2] // width)
    enlarged = pixels.repeat(times, axis=1).repeat(times, axis=2)
    top, left = (images.shape[1] - times * height) // 2, (images.shape[2] - times * width) // 2
    canvas = np.zeros_like(images)
    canvas[:, top : top + times * height, left : left + times * width] = enlarged
    return canvas


def lay_frames(alignment: GrainAlignment, images: np.ndarray) -> np.ndarray:
    """Lay the grains of images, uint8 `[N, H, W, 3]`, into frames as grey levels: uint8 `[N, height, width, 3]`."""
    levels = (alignment(normalise(torch.from_numpy(images))) * NORMALISE_STD).round().clamp(0, 255)
    return levels.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()


def dim_unattended(images: np.ndarray, keep: int | None, patch_size: int, share: float = 0.45) -> np.ndarray:
    """Show what the model attends to: uint8 `[N, H, W, 3]` with the other patches blended towards grey."""
    if keep is None:
        return images.copy()
    patches = cut_patches(normalise(torch.from_numpy(images)), patch_size)
    chosen = brightest(patches, min(keep, patches.shape[1]))
    attended = torch.zeros(patches.shape[:2], dtype=torch.bool).scatter(1, chosen, True)
    grid = attended.unflatten(1, (-1, images.shape[2] // patch_size))
    mask = grid.repeat_interleave(patch_size, 1).repeat_interleave(patch_size, 2).unsqueeze(-1).numpy()
    return np.where(mask, images, (images * (1 - share) + 128 * share).astype(np.uint8))
