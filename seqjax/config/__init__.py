"""What a run is: the sections of its config, and what tells it from other runs."""

from seqjax.config.checks import check, check_bptt, check_shared, decay_begins
from seqjax.config.identity import (
    LANE_KEYS,
    PLACED,
    WITHOUT_SEED,
    canonical,
    canonical_json,
    canonical_model,
    lane_keys,
    placed,
    placed_as,
    program_key,
    run_id,
    task_name,
    text_without,
    to_dict,
)
from seqjax.config.plain import dotted
from seqjax.config.sections import (
    STRICT,
    Config,
    DataConfig,
    EvaluationConfig,
    Fraction,
    HorizonConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SizeConfig,
    TaskConfig,
    TaskTrain,
    TrainConfig,
    family_adapter,
)
