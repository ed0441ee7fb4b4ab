from written_out import no_rank_promotion, quick_compilation  # noqa: F401
