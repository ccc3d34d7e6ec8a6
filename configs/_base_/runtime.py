"""How a run logs, saves and is seeded. A recipe changes single values: default_hooks=dict(logger=dict(interval=10))."""

default_scope = "visionsparse"
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=3, save_best="top1"),
)
log_processor = dict(type="ProgressLogProcessor", window_size=50)
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])  # writes scalars.json
randomness = dict(seed=0)
