"""The light client: requests to a server and its training jobs. Needs numpy, grpcio and protobuf only."""

from serving.client.connection import Tls
from serving.client.inference import Client, InputInfo, ModelInfo, Prediction

__all__ = ["Client", "InputInfo", "ModelInfo", "Prediction", "Tls"]
