"""The only home of torch and timm."""
