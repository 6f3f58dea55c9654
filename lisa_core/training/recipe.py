"""How a model is trained, in plain numbers: without torch, so that the command line knows the defaults at once."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    Attributes:
        steps: in all.
        learning_rate: the highest.
        warmup: steps in which the rate rises to that; then it falls linearly to zero, as in the official recipe.
        weight_decay: of AdamW.
        clip: norm to which larger gradients are scaled down.
        batches: in a step, one after the other; their gradients are averaged.
        muon: Muon (Jordan 2024) optimises the inner matrices, AdamW the rest; otherwise AdamW everything.
        seed: of everything that is random.
        save_every: least seconds between two saved states; multiplied by the seconds that saving took, if over one.
    """

    steps: int
    learning_rate: float = 3e-4
    warmup: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    batches: int = 1
    muon: bool = False
    seed: int = 0
    save_every: float = 120.0

    def rate(self, step: int) -> float:
        """The learning rate of a step, as a share of the highest."""
        rising = (step + 1) / max(1, self.warmup)
        return min(rising, max(0.0, (self.steps - step) / max(1, self.steps - self.warmup)))


@dataclass(frozen=True)
class Lora:
    """The adapters' sizes, as in the official recipe."""

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    @property
    def scale(self) -> float:
        """What the product of an adapter's two matrices is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Weights:
    """Weight of each loss."""

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune; the defaults are the official recipe's, except for the length and the size of a step.

    The authors' step has 20 pictures per GPU, in ten batches of two.

    Attributes:
        batch: pictures in a batch.
        validate_every: steps between two validations.
        weights: of the losses.
    """

    plan: Plan
    batch: int = 2
    validate_every: int = 100
    lora: Lora = field(default_factory=Lora)
    weights: Weights = field(default_factory=Weights)
