"""The public face: model specs, create_model, list_models, Extractor."""
