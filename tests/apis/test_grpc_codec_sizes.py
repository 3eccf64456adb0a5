"""What a PredictRequest says of its size before any tensor is decoded."""

from tensorflow_serving.apis import predict_pb2

from salver.apis.grpc_codec import declared_values, read_predict


def request_of(*shapes: list[int]) -> object:
    message = predict_pb2.PredictRequest()
    message.model_spec.name = "m"
    for index, shape in enumerate(shapes):
        for size in shape:
            message.inputs[f"x{index}"].tensor_shape.dim.add().size = size
    return read_predict(message.SerializeToString())[1]


def test_the_largest_shape_counts():
    """A few bytes may declare a tensor of any size; whoever runs it should know."""
    assert declared_values(request_of([2, 3], [1000, 1000], [7])) == 1_000_000


def test_other_requests_declare_nothing():
    """Examples are as long as they are."""
    assert declared_values([b"an example"]) == 0
