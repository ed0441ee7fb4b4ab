"""One file per command: its options, its help, and the call that does the work. Only the file asked for is imported."""

COMMANDS = {
    "train": ("train", "train a model, or resume a run that was stopped"),
    "sweep": ("sweep", "train every run of a sweep file; the same command resumes a stopped sweep"),
    "plan": ("plan", "propose sizes and tokens for a sweep that fit a time budget on this machine, as YAML"),
    "preflight": ("preflight", "compile runs for an accelerator that is not here: do they fit, how fast at most"),
    "status": ("status", "the states of the runs of a sweep: finished, running, stopped, failed"),
    "watch": ("watch", "live curves of all runs of a folder, as a page on this machine"),
    "runs": ("runs", "one table of all runs in sweep folders"),
    "fit": ("fit", "fit a scaling law to a table of runs, yours or a published one"),
    "report": ("report", "one HTML page of a fit: result, figure, residuals, doubts, checklist, rows"),
    "predict": ("predict", "the loss that a fitted law predicts, with its interval"),
    "forecast": ("forecast", "the loss at the end of a run from its beginning, under any schedule, with its interval"),
    "optimal": ("optimal", "the best split of compute between parameters and tokens, by a fitted law"),
    "optima": ("optima", "the best learning rate or batch as a law of parameters and tokens"),
    "frontier": ("frontier", "the best size for each compute: IsoFLOP minima, or the envelope of training curves"),
    "compare": (
        "compare",
        "compare families: the ratio of their needs at the same loss, and the crossing of their laws",
    ),
    "crossing": (
        "crossing",
        "the map: which family leads at each (N, D), and where one overtakes the other, with intervals",
    ),
    "positions": ("positions", "loss per token by position: the law E + A / T^alpha, the late gain, the plateau"),
    "eval": ("evaluate", "held-out loss of a trained run"),
    "sample": ("sample", "write text with a trained run"),
    "inspect": (
        "inspection",
        "draw the inside of trained runs on a text: attention, gates, states, and the loss of each token",
    ),
    "data": ("data", "list corpora, prepare one, show statistics"),
    "show": ("show", "resolved config, parameters by group, FLOPs per token"),
    "bench": ("bench", "compile time and step time of each family at two sizes"),
    "export": ("export", "write parameters as safetensors, or as a folder for Hugging Face's transformers"),
    "import": ("importing", "make a run folder of a model of Hugging Face's transformers, and evaluate it"),
    "export-wandb": ("export_wandb", "replay the metrics of a run, or of a whole sweep, into wandb"),
    "export-tensorboard": ("export_tensorboard", "write the curves of a run, or of a whole sweep, for TensorBoard"),
    "completion": ("completion", "print a script that completes commands and options in bash or zsh"),
}
"""Command -> its file here, and what it does. The list is read without JAX, so that `seqjax --help` is quick."""
