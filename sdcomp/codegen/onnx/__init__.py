"""Graphs as ONNX models: standard operators only, weights streamed into files beside the models."""
