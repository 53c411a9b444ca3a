"""The classifiers: the frozen-CNN baseline and the fine-tuned ViT."""
