"""A run before it trains and after: its config file, its targets, its folder."""

from seqjax.runs.begun import gone_unless_begun, has_begun
from seqjax.runs.folder import (
    ENDED,
    WRITTEN_UNDER_LOCK,
    Locked,
    bind_data,
    check_data,
    holds_records,
    is_count,
    is_locked,
    is_number,
    keep_code,
    load_code,
    lock,
    open_run,
    own_code_of,
    read_config,
    read_facts,
    read_plan,
    read_result,
    steps_of,
)
from seqjax.runs.metrics import (
    append_metrics,
    keep_metrics,
    read_curve,
    read_metrics,
    restore_ended,
    restore_metrics,
    sync_metrics,
    write_metrics,
)
from seqjax.runs.places import runs_in
