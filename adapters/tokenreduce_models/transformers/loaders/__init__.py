"""Models of transformers by name: folders that ``save_pretrained`` wrote, and ids of the hub."""
