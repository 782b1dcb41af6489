"""A pretrained timm model as a source of feature maps."""
