import com.google.protobuf.ByteString;
import com.google.protobuf.DescriptorProtos.FileDescriptorProto;
import com.google.protobuf.DescriptorProtos.FileDescriptorSet;
import com.google.protobuf.Descriptors.Descriptor;
import com.google.protobuf.Descriptors.FieldDescriptor;
import com.google.protobuf.Descriptors.FileDescriptor;
import com.google.protobuf.DynamicMessage;
import com.google.protobuf.Message;
import io.grpc.CallOptions;
import io.grpc.ClientInterceptors;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.internal.GrpcUtil;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/** grpc-java on Netty's HTTP/2, with messages made from the compiled .proto files. */
public final class GrpcClient {
  private static final long TIMEOUT_S = 60;
  private static final long SHORT_MS = 200;
  private static final int IN_FLIGHT = 100;
  private static final int LARGE_FLOATS = 5_000_000;
  private static final String NAMELESS = "größe 100%";
  private static final int FLOAT = 1;
  private static final int STRING = 7;

  private final ManagedChannel channel;
  private final Descriptor request;
  private final Descriptor answer;

  private GrpcClient(ManagedChannel channel, Map<String, FileDescriptor> files) {
    this.channel = channel;
    FileDescriptor file = files.get("tensorflow_serving/apis/predict.proto");
    request = file.findMessageTypeByName("PredictRequest");
    answer = file.findMessageTypeByName("PredictResponse");
  }

  public static void main(String[] arguments) throws Exception {
    System.out.println("version: grpc-java " + GrpcUtil.IMPLEMENTATION_VERSION);
    ManagedChannel channel = connect();
    try {
      GrpcClient client = new GrpcClient(channel, files());
      client.predict();
      say("predict");
      client.errors();
      say("errors");
      client.deadline();
      say("deadline");
      client.cancel();
      say("cancel");
      client.metadata();
      say("metadata");
      client.identity(LARGE_FLOATS, CallOptions.DEFAULT);
      say("20 MB");
      client.identity(1_000_000, CallOptions.DEFAULT.withCompression("gzip"));
      say("gzip");
      client.manyCalls();
      say("calls");
    } finally {
      channel.shutdownNow();
    }
  }

  private static void say(String what) {
    System.out.println("did: " + what);
  }

  private static void check(boolean isSo, Object found) {
    if (!isSo) {
      throw new AssertionError(String.valueOf(found));
    }
  }

  private static ManagedChannel connect() throws Exception {
    String ca = System.getenv("SALVER_CA");
    var trust =
        ca.isEmpty()
            ? InsecureChannelCredentials.create()
            : TlsChannelCredentials.newBuilder().trustManager(new File(ca)).build();
    return Grpc.newChannelBuilder(System.getenv("SALVER_GRPC"), trust)
        .maxInboundMessageSize(Integer.MAX_VALUE)
        .build();
  }

  private static Map<String, FileDescriptor> files() throws Exception {
    byte[] octets = Files.readAllBytes(Path.of(System.getenv("SALVER_PROTOS") + ".binpb"));
    Map<String, FileDescriptor> files = new HashMap<>();
    for (FileDescriptorProto file : FileDescriptorSet.parseFrom(octets).getFileList()) {
      FileDescriptor[] imports =
          file.getDependencyList().stream().map(files::get).toArray(FileDescriptor[]::new);
      files.put(file.getName(), FileDescriptor.buildFrom(file, imports));
    }
    return files;
  }

  // Messages.

  private DynamicMessage.Builder request(String model, String signature) {
    FieldDescriptor spec = request.findFieldByName("model_spec");
    Descriptor type = spec.getMessageType();
    return DynamicMessage.newBuilder(request)
        .setField(
            spec,
            DynamicMessage.newBuilder(type)
                .setField(type.findFieldByName("name"), model)
                .setField(type.findFieldByName("signature_name"), signature)
                .build());
  }

  private DynamicMessage.Builder tensor(int dtype, int size) {
    Descriptor type = entry().findFieldByName("value").getMessageType();
    FieldDescriptor dtypeField = type.findFieldByName("dtype");
    FieldDescriptor shapeField = type.findFieldByName("tensor_shape");
    DynamicMessage.Builder shape = DynamicMessage.newBuilder(shapeField.getMessageType());
    if (size >= 0) {
      FieldDescriptor dim = shapeField.getMessageType().findFieldByName("dim");
      shape.addRepeatedField(
          dim,
          DynamicMessage.newBuilder(dim.getMessageType())
              .setField(dim.getMessageType().findFieldByName("size"), (long) size)
              .build());
    }
    return DynamicMessage.newBuilder(type)
        .setField(dtypeField, dtypeField.getEnumType().findValueByNumber(dtype))
        .setField(shapeField, shape.build());
  }

  private Descriptor entry() {
    return request.findFieldByName("inputs").getMessageType();
  }

  private Message input(String alias, DynamicMessage.Builder tensor) {
    return DynamicMessage.newBuilder(entry())
        .setField(entry().findFieldByName("key"), alias)
        .setField(entry().findFieldByName("value"), tensor.build())
        .build();
  }

  private DynamicMessage halfPlusTwo(String model) {
    DynamicMessage.Builder x = tensor(FLOAT, 3);
    FieldDescriptor values = x.getDescriptorForType().findFieldByName("float_val");
    for (float value : new float[] {1, 2, 5}) {
      x.addRepeatedField(values, value);
    }
    return request(model, "")
        .addRepeatedField(request.findFieldByName("inputs"), input("x", x))
        .build();
  }

  private DynamicMessage waiting() {
    DynamicMessage.Builder message = request("turnstile", "");
    Map.of("arrived", "/dev/null", "leave", System.getenv("SALVER_GATE"))
        .forEach(
            (alias, path) -> {
              DynamicMessage.Builder name = tensor(STRING, -1);
              name.addRepeatedField(
                  name.getDescriptorForType().findFieldByName("string_val"),
                  ByteString.copyFromUtf8(path));
              message.addRepeatedField(request.findFieldByName("inputs"), input(alias, name));
            });
    return message.build();
  }

  private List<?> floats(DynamicMessage message) {
    for (Object each : (List<?>) message.getField(answer.findFieldByName("outputs"))) {
      DynamicMessage output = (DynamicMessage) each;
      Descriptor type = output.getDescriptorForType();
      DynamicMessage tensor = (DynamicMessage) output.getField(type.findFieldByName("value"));
      return (List<?>)
          tensor.getField(tensor.getDescriptorForType().findFieldByName("float_val"));
    }
    throw new AssertionError("there is no output");
  }

  // Calls.

  private MethodDescriptor<DynamicMessage, DynamicMessage> method() {
    return MethodDescriptor.<DynamicMessage, DynamicMessage>newBuilder()
        .setType(MethodDescriptor.MethodType.UNARY)
        .setFullMethodName("tensorflow.serving.PredictionService/Predict")
        .setRequestMarshaller(ProtoUtils.marshaller(DynamicMessage.getDefaultInstance(request)))
        .setResponseMarshaller(ProtoUtils.marshaller(DynamicMessage.getDefaultInstance(answer)))
        .build();
  }

  private DynamicMessage call(DynamicMessage message, CallOptions options) {
    CallOptions patient =
        options.getDeadline() == null
            ? options.withDeadlineAfter(TIMEOUT_S, TimeUnit.SECONDS)
            : options;
    return ClientCalls.blockingUnaryCall(channel, method(), patient, message);
  }

  private void refused(Status.Code code, String text, Callable<?> call) throws Exception {
    try {
      call.call();
    } catch (StatusRuntimeException error) {
      Status status = error.getStatus();
      check(status.getCode() == code, status);
      check(text.isEmpty() || text.equals(status.getDescription()), status);
      return;
    }
    throw new AssertionError("the call succeeded");
  }

  private void predict() {
    Object values = floats(call(halfPlusTwo("half_plus_two"), CallOptions.DEFAULT));
    check(values.equals(List.of(2.5f, 3f, 4.5f)), values);
  }

  private void errors() throws Exception {
    refused(
        Status.Code.NOT_FOUND,
        "Servable not found for request: Latest(" + NAMELESS + ")",
        () -> call(halfPlusTwo(NAMELESS), CallOptions.DEFAULT));
    refused(
        Status.Code.INVALID_ARGUMENT,
        "Missing ModelSpec",
        () -> call(DynamicMessage.getDefaultInstance(request), CallOptions.DEFAULT));
  }

  private void deadline() throws Exception {
    CallOptions soon = CallOptions.DEFAULT.withDeadlineAfter(SHORT_MS, TimeUnit.MILLISECONDS);
    refused(Status.Code.DEADLINE_EXCEEDED, "", () -> call(waiting(), soon));
    predict();
  }

  private void cancel() throws Exception {
    var timer = Executors.newSingleThreadScheduledExecutor();
    Context.CancellableContext context = Context.current().withCancellation();
    timer.schedule(() -> context.cancel(null), SHORT_MS, TimeUnit.MILLISECONDS);
    refused(
        Status.Code.CANCELLED,
        "",
        () -> context.call(() -> call(waiting(), CallOptions.DEFAULT)));
    timer.shutdown();
    predict();
  }

  private void metadata() {
    Metadata sent = new Metadata();
    var id = Metadata.Key.of("x-request-id", Metadata.ASCII_STRING_MARSHALLER);
    sent.put(id, "e9aedbe");
    sent.put(id, "again");
    sent.put(Metadata.Key.of("x-long", Metadata.ASCII_STRING_MARSHALLER), "ab".repeat(3000));
    sent.put(
        Metadata.Key.of("x-trace-bin", Metadata.BINARY_BYTE_MARSHALLER),
        NAMELESS.getBytes(StandardCharsets.ISO_8859_1));
    var withHeaders =
        ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(sent));
    DynamicMessage got =
        ClientCalls.blockingUnaryCall(
            withHeaders,
            method(),
            CallOptions.DEFAULT.withDeadlineAfter(TIMEOUT_S, TimeUnit.SECONDS),
            halfPlusTwo("half_plus_two"));
    check(floats(got).size() == 3, got);
  }

  private void identity(int size, CallOptions options) {
    ByteBuffer octets = ByteBuffer.allocate(4 * size).order(ByteOrder.LITTLE_ENDIAN);
    for (int i = 0; i < size; i++) {
      octets.putFloat(i);
    }
    DynamicMessage.Builder x = tensor(FLOAT, size);
    x.setField(
        x.getDescriptorForType().findFieldByName("tensor_content"),
        ByteString.copyFrom(octets.array()));
    DynamicMessage message =
        request("all_dtypes", "float")
            .addRepeatedField(request.findFieldByName("inputs"), input("x", x))
            .build();
    List<?> values = floats(call(message, options));
    check(values.size() == size, values.size());
    for (int i = 0; i < size; i++) {
      check((Float) values.get(i) == (float) i, i);
    }
  }

  private void manyCalls() throws Exception {
    int calls = Integer.parseInt(System.getenv("SALVER_CALLS"));
    ExecutorService workers = Executors.newFixedThreadPool(IN_FLIGHT);
    List<Future<?>> done = new ArrayList<>();
    for (int i = 0; i < calls; i++) {
      done.add(workers.submit(this::predict));
    }
    for (Future<?> each : done) {
      each.get(TIMEOUT_S, TimeUnit.SECONDS);
    }
    workers.shutdown();
  }
}
