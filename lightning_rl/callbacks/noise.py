from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_rl.networks.policies import GaussianPolicy


class FallingNoise(Callback):
    """Lets the standard deviation of TRPO's Gaussian policy fall from one number to another, by a plan.

    The policy then does not learn it. Learned, it falls as soon as that pays, often before a good behaviour was found;
    planned, it gives exploration its time. It falls geometrically, as a function of ``trainer.global_step`` alone, so
    that a resumed run goes on exactly.

    Args:
        first: the standard deviation before the first update, in units of half the range of a bounded action.
        last: the one that is reached, and kept.
        updates: after so many.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(self, first: float, last: float, updates: int) -> None:
        for name, value in {"first": first, "last": last}.items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name}={value}: a finite number above zero was expected.")
        if updates < 1:
            raise ValueError(f"updates={updates}: an integer of at least 1 was expected.")
        self.first = first
        self.last = last
        self.updates = updates

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the standard deviation out of what is learned, before the optimizers are made.

        Raises:
            TypeError: the module's policy has no standard deviation of its own.
        """
        if stage == "fit":
            self._log_std(pl_module).requires_grad_(False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the deviation with which training begins or goes on."""
        self._set(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sets the next rollout's deviation."""
        self._set(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets it be learned again."""
        if stage == "fit":
            self._log_std(pl_module).requires_grad_(True)

    def _set(self, trainer: Trainer, module: LightningModule) -> None:
        done = min(1.0, trainer.global_step / self.updates)
        self._log_std(module).data.fill_(self.first * (self.last / self.first) ** done).log_()

    def _log_std(self, module: Any) -> Any:
        policy = getattr(module, "policy", None)
        if not isinstance(policy, GaussianPolicy):
            acts = "no policy" if policy is None else f"a {type(policy).__name__}"
            raise TypeError(
                f"FallingNoise is for a Gaussian policy of TRPOModule, and this {type(module).__name__} has {acts}."
            )
        return policy.log_std
