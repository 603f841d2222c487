"""Image quality metrics; import ``topk_plugin.evaluation.evaluator.Evaluator``."""
