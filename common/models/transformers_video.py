"""VideoMAE, TimeSformer, ViViT and V-JEPA 2 of the library `transformers`, as recognizers."""

from typing import Any, Final

from torch import Tensor, nn

from reskd.common.errors import ExperimentError
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.common.models.transformers_families import FAMILIES, VideoFamily

UNUSED: Final = "vjepa2.predictor."
"""Beginning of the names of weights that have no part in classifying."""


def family_of(name: str) -> VideoFamily:
    """A family by its name.

    Raises:
        ExperimentError: If there is none of that name.
    """
    if name not in FAMILIES:
        raise ExperimentError(
            f"recognizer transformers has the backbones {', '.join(FAMILIES)}; got {name!r}. "
            "Weights come with `reskd import-checkpoint`, which takes a folder or the name of a "
            "repository on the hub."
        )
    return FAMILIES[name]


def library() -> Any:
    """The library.

    Raises:
        ExperimentError: If it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ExperimentError(
            "recognizer transformers needs the library of that name: pip install "
            '"reskd[transformers]"'
        ) from error
    return transformers


class TransformersRecognizer(Recognizer):
    """A video classifier of the library, with its last hidden state laid out as a feature map.

    It classifies tokens in ways of its own (transformers_families), so it makes no logit map.

    Args:
        name: One of FAMILIES.
        num_classes: K.
        dropout: Chance to drop a number of what is classified, in training.
        drop_path: Rate of stochastic depth at the last block.
        args: Fields of the family's config that differ from the library's defaults.

    Raises:
        ExperimentError: If the library is absent, or does not know the family, a field or its
            value. `forward` raises it for clips of other frames than the network's.
    """

    gives_logit_map = False

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        dropout: float,
        drop_path: float,
        args: dict[str, Any],
    ) -> None:
        super().__init__()
        self._name, self._family = name, family_of(name)
        kind = getattr(library(), f"{self._family.library_name}ForVideoClassification")
        all_args = {**args, **_drop_path(name, drop_path)}
        try:
            config = _config(name, all_args, num_classes)
            self.backbone: Any = kind(config)
        except ExperimentError:
            raise
        except Exception as error:  # the library has kinds of its own, torch trips over the rest
            raise ExperimentError(
                f"transformers cannot make {name} with backbone_args: {args}: {error}"
            ) from error
        self.dropout = nn.Dropout(dropout)
        self.num_features = int(config.hidden_size)
        self._size = _one(getattr(config, self._family.size))
        self._frames = int(getattr(config, self._family.frames))
        tubelet = getattr(config, "tubelet_size", 1)
        self._step, patch = (
            tubelet[:2] if isinstance(tubelet, list | tuple) else (tubelet, config.patch_size)
        )
        self._side = self._size // _one(patch)
        self._make_fit()
        inner = self.backbone.base_model_prefix
        self.stage_names = tuple(
            place for place, _ in self.backbone.named_modules() if _is_block(place, inner)
        )

    @property
    def classifier_tensors(self) -> frozenset[str]:
        return frozenset({"backbone.classifier.weight", "backbone.classifier.bias"})

    def forward(self, clips_BT3HW: Tensor) -> ClipOutput:
        self._require_own(clips_BT3HW)
        inner = self.backbone.base_model
        if self._name == "vjepa2":
            tokens_BLC: Tensor = inner.encoder(pixel_values_videos=clips_BT3HW).last_hidden_state
        else:
            tokens_BLC = inner(clips_BT3HW).last_hidden_state
        features_BTChw = self.feature_map(tokens_BLC)
        pooled_BC = self.dropout(self._pooled(tokens_BLC))
        return ClipOutput(features_BTChw, self.backbone.classifier(pooled_BC))

    def feature_map(self, tokens_BLC: Tensor) -> Tensor:
        """Tokens by their places, (B, T', C, h, w)."""
        if self._family.class_token:
            tokens_BLC = tokens_BLC[:, 1:]
        if self._family.time_last:
            tokens_BTLC = tokens_BLC.unflatten(1, (self._side**2, -1)).transpose(1, 2)
        else:
            tokens_BTLC = tokens_BLC.unflatten(1, (-1, self._side**2))
        features_BTChw: Tensor = tokens_BTLC.unflatten(2, (self._side, self._side)).movedim(-1, 2)
        return features_BTChw

    def _pooled(self, tokens_BLC: Tensor) -> Tensor:
        """What the classifier sees, as the library has it."""
        if self._name == "vjepa2":
            pooled: Tensor = self.backbone.pooler(tokens_BLC)
            return pooled
        if self._name == "videomae" and self.backbone.fc_norm is not None:
            normed: Tensor = self.backbone.fc_norm(tokens_BLC.mean(1))
            return normed
        return tokens_BLC[:, 0]

    def _make_fit(self) -> None:
        """Leave out what does not classify; positions lie where the network does."""
        inner = self.backbone.base_model
        if self._name == "vjepa2":
            inner.predictor = nn.Identity()
        if self._name == "videomae":  # else they are copied to a GPU, which waits, for every clip
            positions = inner.embeddings.position_embeddings
            del inner.embeddings.position_embeddings
            inner.embeddings.register_buffer("position_embeddings", positions, persistent=False)

    def _require_own(self, clips_BT3HW: Tensor) -> None:
        """Positions fix how many patches there are, and some are moved without a word."""
        frames, height, width = (clips_BT3HW.shape[place] for place in (1, 3, 4))
        fits = frames % self._step == 0 if self._family.any_frames else frames == self._frames
        if fits and (height, width) == (self._size, self._size):
            return
        count = f"a multiple of {self._step}" if self._family.any_frames else str(self._frames)
        raise ExperimentError(
            f"This {self._name} takes clips of {count} frames of {self._size}x{self._size} px and "
            f"no others, got {frames} frames of {height}x{width} px. Give it such clips, or set "
            f"its backbone_args: {{{self._family.frames}: {frames}, {self._family.size}: {height}}}"
            " (which its published weights may not fit)."
        )


def _config(name: str, args: dict[str, Any], num_classes: int) -> Any:
    family = family_of(name)
    kind = getattr(library(), f"{family.library_name}Config")
    known = vars(kind)["__annotations__"].keys() - {"model_type", "attribute_map"}
    if unknown := sorted(args.keys() - known):
        raise ExperimentError(
            f"transformers' config of {name} has no {', '.join(unknown)}; backbone_args may set "
            f"{', '.join(sorted(known))}."
        )
    config = kind(**args, num_labels=num_classes)
    if name == "vjepa2":
        config.pred_num_hidden_layers = 0  # of what is left out
    if getattr(config, "attention_type", "divided_space_time") == "space_only":
        raise ExperimentError(
            "A timesformer with attention_type space_only sees frames one by one and has no tokens "
            "of a clip. Take divided_space_time or joint_space_time."
        )
    return config


def _drop_path(name: str, rate: float) -> dict[str, float]:
    if rate and not family_of(name).drop_path:
        raise ExperimentError(
            f"{name} has no stochastic depth to be set, so drop_path must be 0, got {rate}."
        )
    return {"drop_path_rate": rate} if rate else {}


def _one(side: Any) -> int:
    """Side of a square, where the library may say it twice."""
    sides = {side} if isinstance(side, int) else set(side)
    if len(sides) != 1:
        raise ExperimentError(f"Frames and patches are square, got sides {list(side)}.")
    return int(sides.pop())


def _is_block(place: str, inner: str) -> bool:
    """Whether a module of a classifier is one of the blocks of its inner model."""
    parent, _, number = place.rpartition(".")
    return number.isdigit() and parent in (f"{inner}.layers", f"{inner}.encoder.layer")
