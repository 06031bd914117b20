"""Run rows through stages and let each leave at the exit its rule allows; knows no gRPC."""
