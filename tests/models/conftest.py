from written_out import no_rank_promotion  # noqa: F401
