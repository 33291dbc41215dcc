"""The typed graph between the ONNX file and the machine; it knows neither."""
