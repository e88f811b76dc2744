"""Sources of published weights: file formats, the Hugging Face Hub, known releases.

- `files`: `read_state_dict`, which reads safetensors and torch.save files without torch.
- `unpickle`: the restricted unpickler that `files` uses; it never runs code from a file.
- `hub`: download and verification of timm's checkpoints.
- `released`: the files released by torchvision, identified by name and sha256.
"""
