//! tonic on hyper's HTTP/2, with the messages written out by their field numbers.

use std::collections::HashMap;
use std::env::var;
use std::error::Error;
use std::time::Duration;

use prost::Message;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

const TIMEOUT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);
const IN_FLIGHT: usize = 100;
const LARGE_FLOATS: usize = 5_000_000;
const PREDICT: &str = "/tensorflow.serving.PredictionService/Predict";
const NAMELESS: &str = "größe 100%";
const MANIFEST: &str = include_str!("../Cargo.toml");

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Clone, PartialEq, Message)]
struct ModelSpec {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    signature_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<Shape>,
    #[prost(bytes = "vec", tag = "4")]
    tensor_content: Vec<u8>,
    #[prost(float, repeated, tag = "5")]
    float_val: Vec<f32>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct PredictRequest {
    #[prost(message, optional, tag = "1")]
    model_spec: Option<ModelSpec>,
    #[prost(map = "string, message", tag = "2")]
    inputs: HashMap<String, Tensor>,
}

#[derive(Clone, PartialEq, Message)]
struct PredictResponse {
    #[prost(map = "string, message", tag = "1")]
    outputs: HashMap<String, Tensor>,
}

fn request(model: &str, signature: &str, inputs: Vec<(&str, Tensor)>) -> PredictRequest {
    PredictRequest {
        model_spec: Some(ModelSpec {
            name: model.into(),
            signature_name: signature.into(),
        }),
        inputs: inputs.into_iter().map(|(k, v)| (k.into(), v)).collect(),
    }
}

fn vector(size: usize) -> Option<Shape> {
    Some(Shape {
        dim: vec![Dim { size: size as i64 }],
    })
}

fn half_plus_two(model: &str) -> PredictRequest {
    let x = Tensor {
        dtype: 1,
        tensor_shape: vector(3),
        float_val: vec![1.0, 2.0, 5.0],
        ..Tensor::default()
    };
    request(model, "", vec![("x", x)])
}

fn waiting() -> Outcome<PredictRequest> {
    let scalar = |path: &str| Tensor {
        dtype: 7,
        tensor_shape: Some(Shape::default()),
        string_val: vec![path.into()],
        ..Tensor::default()
    };
    let gate = scalar(&var("SALVER_GATE")?);
    let inputs = vec![("arrived", scalar("/dev/null")), ("leave", gate)];
    Ok(request("turnstile", "", inputs))
}

async fn connect() -> Outcome<Channel> {
    let address = var("SALVER_GRPC")?;
    let ca = var("SALVER_CA")?;
    if ca.is_empty() {
        let endpoint = Channel::from_shared(format!("http://{address}"))?;
        return Ok(endpoint.connect().await?);
    }
    let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(std::fs::read(ca)?));
    let endpoint = Channel::from_shared(format!("https://{address}"))?.tls_config(trust)?;
    Ok(endpoint.connect().await?)
}

fn client(channel: &Channel) -> Grpc<Channel> {
    Grpc::new(channel.clone())
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

async fn call(
    mut grpc: Grpc<Channel>,
    message: Request<PredictRequest>,
) -> Result<PredictResponse, Status> {
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let codec: ProstCodec<PredictRequest, PredictResponse> = ProstCodec::default();
    let path = PathAndQuery::from_static(PREDICT);
    Ok(grpc.unary(message, path, codec).await?.into_inner())
}

fn patient(message: PredictRequest) -> Request<PredictRequest> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

fn same(answer: &PredictResponse, values: &[f32]) -> Outcome {
    match answer.outputs.get("y") {
        Some(tensor) if tensor.float_val == values => Ok(()),
        _ => Err("the answer is wrong".into()),
    }
}

fn refused<T>(outcome: Result<T, Status>, code: Code, text: &str) -> Outcome {
    match outcome {
        Ok(_) => Err("the call succeeded".into()),
        Err(status) if status.code() == code && (text.is_empty() || status.message() == text) => {
            Ok(())
        }
        Err(status) => Err(format!("{status:?}").into()),
    }
}

async fn predict(channel: &Channel) -> Outcome {
    let answer = call(client(channel), patient(half_plus_two("half_plus_two"))).await?;
    same(&answer, &[2.5, 3.0, 4.5])
}

async fn errors(channel: &Channel) -> Outcome {
    let not_found = format!("Servable not found for request: Latest({NAMELESS})");
    let outcome = call(client(channel), patient(half_plus_two(NAMELESS))).await;
    refused(outcome, Code::NotFound, &not_found)?;
    let outcome = call(client(channel), patient(PredictRequest::default())).await;
    refused(outcome, Code::InvalidArgument, "Missing ModelSpec")
}

/// tonic's own timer says CANCELLED, the server's answer DEADLINE_EXCEEDED: the first one wins.
async fn deadline(channel: &Channel) -> Outcome {
    let mut stuck = Request::new(waiting()?);
    stuck.set_timeout(SHORT);
    match call(client(channel), stuck).await {
        Err(status) if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) => {}
        other => return Err(format!("{other:?}").into()),
    }
    predict(channel).await
}

/// A future that is dropped resets its stream.
async fn cancel(channel: &Channel) -> Outcome {
    let stuck = call(client(channel), patient(waiting()?));
    if tokio::time::timeout(SHORT, stuck).await.is_ok() {
        return Err("it was answered".into());
    }
    predict(channel).await
}

async fn metadata(channel: &Channel) -> Outcome {
    let mut message = patient(half_plus_two("half_plus_two"));
    let sent = message.metadata_mut();
    sent.append("x-request-id", "e9aedbe".parse()?);
    sent.append("x-request-id", "again".parse()?);
    sent.insert("x-long", "ab".repeat(3000).parse()?);
    let octets: Vec<u8> = (0..=255).collect();
    sent.insert_bin("x-trace-bin", MetadataValue::from_bytes(&octets));
    same(&call(client(channel), message).await?, &[2.5, 3.0, 4.5])
}

async fn identity(grpc: Grpc<Channel>, size: usize) -> Outcome {
    let values: Vec<f32> = (0..size).map(|i| i as f32).collect();
    let x = Tensor {
        dtype: 1,
        tensor_shape: vector(size),
        tensor_content: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..Tensor::default()
    };
    let answer = call(
        grpc,
        patient(request("all_dtypes", "float", vec![("x", x)])),
    )
    .await?;
    same(&answer, &values)
}

async fn many_calls(channel: &Channel) -> Outcome {
    let each = var("SALVER_CALLS")?.parse::<usize>()?.div_ceil(IN_FLIGHT);
    let mut workers = Vec::new();
    for _ in 0..IN_FLIGHT {
        let channel = channel.clone();
        workers.push(tokio::spawn(async move {
            for _ in 0..each {
                predict(&channel).await?;
            }
            Outcome::Ok(())
        }));
    }
    for worker in workers {
        worker.await??;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    let tonic = MANIFEST.split("tonic-prost = \"=").nth(1);
    println!(
        "version: tonic {}",
        tonic.and_then(|rest| rest.split('"').next()).unwrap_or("?")
    );
    let channel = connect().await?;
    predict(&channel).await?;
    println!("did: predict");
    errors(&channel).await?;
    println!("did: errors");
    deadline(&channel).await?;
    println!("did: deadline");
    cancel(&channel).await?;
    println!("did: cancel");
    metadata(&channel).await?;
    println!("did: metadata");
    identity(client(&channel), LARGE_FLOATS).await?;
    println!("did: 20 MB");
    let packing = client(&channel)
        .send_compressed(Gzip)
        .accept_compressed(Gzip);
    identity(packing, 1_000_000).await?;
    println!("did: gzip");
    many_calls(&channel).await?;
    println!("did: calls");
    Ok(())
}
