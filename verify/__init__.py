"""Checks of a translation: the graph against the ONNX file, the passes against each other, the program against the graph."""
