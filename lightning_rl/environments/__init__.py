from lightning_rl.environments.arrays import Actions, Array, Mask
from lightning_rl.environments.checker import check_environment
from lightning_rl.environments.envpool import EnvPoolEnvironments, require_envpool
from lightning_rl.environments.gymnasium import GymnasiumEnvironments
from lightning_rl.environments.seeds import (
    TEST_SEEDS,
    TRAINING_SEEDS,
    VALIDATION_SEEDS,
    Purpose,
    TrainingSeeds,
    generator,
)
from lightning_rl.environments.single import (
    ActionRepeat,
    CheckedEnvironment,
    EnvironmentSpec,
    FaultyEnvironmentError,
    spaces,
)
from lightning_rl.environments.vector import EnvironmentLostError, Step, VectorEnvironment

__all__ = [
    "TEST_SEEDS",
    "TRAINING_SEEDS",
    "VALIDATION_SEEDS",
    "ActionRepeat",
    "Actions",
    "Array",
    "CheckedEnvironment",
    "EnvPoolEnvironments",
    "EnvironmentLostError",
    "EnvironmentSpec",
    "FaultyEnvironmentError",
    "GymnasiumEnvironments",
    "Mask",
    "Purpose",
    "Step",
    "TrainingSeeds",
    "VectorEnvironment",
    "check_environment",
    "generator",
    "require_envpool",
    "spaces",
]
