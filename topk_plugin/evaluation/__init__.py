"""Image quality metrics on torch-fidelity; import ``topk_plugin.evaluation.metrics.Evaluator``."""
