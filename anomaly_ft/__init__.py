"""Fine-tune pretrained image encoders for visual anomaly detection without forgetting.

Nothing heavy is imported here: `import anomaly_ft` loads no torch.
"""

__version__ = "0.1.0"
