// grpc-go, which has an HTTP/2 of its own, with messages made from the compiled .proto files.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const (
	timeout     = time.Minute
	short       = 200 * time.Millisecond
	inFlight    = 100
	largeFloats = 5_000_000
	unlimited   = math.MaxInt32
	service     = "/tensorflow.serving.PredictionService/"
	nameless    = "größe 100%"
)

type client struct {
	connection *grpc.ClientConn
	files      *protoregistry.Files
	compressed *compressedCounter
}

// compressedCounter counts answers that came smaller than they are.
type compressedCounter struct {
	mutex sync.Mutex
	count int
}

func (c *compressedCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return ctx
}

func (c *compressedCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}

func (c *compressedCounter) HandleConn(context.Context, stats.ConnStats) {}

func (c *compressedCounter) HandleRPC(_ context.Context, event stats.RPCStats) {
	if in, ok := event.(*stats.InPayload); ok && in.CompressedLength < in.Length {
		c.mutex.Lock()
		c.count++
		c.mutex.Unlock()
	}
}

func main() {
	log.SetFlags(0)
	fmt.Println("version: grpc-go", grpc.Version)
	c := connect()
	defer c.connection.Close()
	for _, check := range []struct {
		name string
		run  func(*client) error
	}{
		{"predict", predict},
		{"errors", failures},
		{"deadline", deadline},
		{"cancel", cancel},
		{"metadata", anyMetadata},
		{"20 MB", large},
		{"gzip", compression},
		{"health watch", watchHealth},
		{"calls", manyCalls},
	} {
		if err := check.run(c); err != nil {
			log.Fatalf("%s: %v", check.name, err)
		}
		fmt.Println("did:", check.name)
	}
}

func connect() *client {
	trust := insecure.NewCredentials()
	if ca := os.Getenv("SALVER_CA"); ca != "" {
		var err error
		trust, err = credentials.NewClientTLSFromFile(ca, "")
		must(err)
	}
	counter := &compressedCounter{}
	connection, err := grpc.NewClient(
		os.Getenv("SALVER_GRPC"),
		grpc.WithTransportCredentials(trust),
		grpc.WithStatsHandler(counter),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(unlimited), grpc.MaxCallSendMsgSize(unlimited)),
	)
	must(err)
	octets, err := os.ReadFile(os.Getenv("SALVER_PROTOS") + ".binpb")
	must(err)
	set := &descriptorpb.FileDescriptorSet{}
	must(proto.Unmarshal(octets, set))
	files, err := protodesc.NewFiles(set)
	must(err)
	return &client{connection, files, counter}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// message makes an empty message of package tensorflow.
func (c *client) message(name string) *dynamicpb.Message {
	found, err := c.files.FindDescriptorByName(protoreflect.FullName("tensorflow." + name))
	must(err)
	return dynamicpb.NewMessage(found.(protoreflect.MessageDescriptor))
}

func field(m protoreflect.Message, name string) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(protoreflect.Name(name))
}

func (c *client) request(model, signature string) *dynamicpb.Message {
	request := c.message("serving.PredictRequest")
	spec := request.Mutable(field(request, "model_spec")).Message()
	spec.Set(field(spec, "name"), protoreflect.ValueOfString(model))
	spec.Set(field(spec, "signature_name"), protoreflect.ValueOfString(signature))
	return request
}

// input adds a tensor of one dimension, or a scalar if size is negative.
func (c *client) input(request *dynamicpb.Message, alias string, dtype int32, size int) protoreflect.Message {
	tensor := request.Mutable(field(request, "inputs")).Map().
		Mutable(protoreflect.ValueOfString(alias).MapKey()).Message()
	tensor.Set(field(tensor, "dtype"), protoreflect.ValueOfEnum(protoreflect.EnumNumber(dtype)))
	shape := tensor.Mutable(field(tensor, "tensor_shape")).Message()
	if size >= 0 {
		dim := shape.Mutable(field(shape, "dim")).List().AppendMutable().Message()
		dim.Set(field(dim, "size"), protoreflect.ValueOfInt64(int64(size)))
	}
	return tensor
}

func (c *client) halfPlusTwo(model string) *dynamicpb.Message {
	request := c.request(model, "")
	tensor := c.input(request, "x", 1, 3)
	values := tensor.Mutable(field(tensor, "float_val")).List()
	for _, value := range []float32{1, 2, 5} {
		values.Append(protoreflect.ValueOfFloat32(value))
	}
	return request
}

func (c *client) identity(values []float32) *dynamicpb.Message {
	request := c.request("all_dtypes", "float")
	tensor := c.input(request, "x", 1, len(values))
	octets := make([]byte, 0, 4*len(values))
	for _, value := range values {
		octets = binary.LittleEndian.AppendUint32(octets, math.Float32bits(value))
	}
	tensor.Set(field(tensor, "tensor_content"), protoreflect.ValueOfBytes(octets))
	return request
}

func (c *client) waiting() *dynamicpb.Message {
	request := c.request("turnstile", "")
	for alias, path := range map[string]string{"arrived": "/dev/null", "leave": os.Getenv("SALVER_GATE")} {
		tensor := c.input(request, alias, 7, -1)
		tensor.Mutable(field(tensor, "string_val")).List().Append(protoreflect.ValueOfBytes([]byte(path)))
	}
	return request
}

func (c *client) call(ctx context.Context, request proto.Message, options ...grpc.CallOption) (*dynamicpb.Message, error) {
	answer := c.message("serving.PredictResponse")
	return answer, c.connection.Invoke(ctx, service+"Predict", request, answer, options...)
}

func floats(answer *dynamicpb.Message) protoreflect.List {
	tensor := answer.Get(field(answer, "outputs")).Map().
		Get(protoreflect.ValueOfString("y").MapKey()).Message()
	return tensor.Get(field(tensor, "float_val")).List()
}

func same(answer *dynamicpb.Message, values []float32) error {
	got := floats(answer)
	if got.Len() != len(values) {
		return fmt.Errorf("%d values, not %d", got.Len(), len(values))
	}
	for i, value := range values {
		if float32(got.Get(i).Float()) != value {
			return fmt.Errorf("value %d is %v, not %v", i, got.Get(i).Float(), value)
		}
	}
	return nil
}

func patient() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), timeout)
}

func predictIn(ctx context.Context, c *client, options ...grpc.CallOption) error {
	answer, err := c.call(ctx, c.halfPlusTwo("half_plus_two"), options...)
	if err != nil {
		return err
	}
	return same(answer, []float32{2.5, 3, 4.5})
}

func predict(c *client) error {
	ctx, done := patient()
	defer done()
	return predictIn(ctx, c)
}

func expect(err error, code codes.Code, text string) error {
	got := status.Convert(err)
	if got.Code() != code || (text != "" && got.Message() != text) {
		return fmt.Errorf("%s %q, not %s %q", got.Code(), got.Message(), code, text)
	}
	return nil
}

func failures(c *client) error {
	ctx, done := patient()
	defer done()
	_, err := c.call(ctx, c.halfPlusTwo(nameless))
	if err := expect(err, codes.NotFound, "Servable not found for request: Latest("+nameless+")"); err != nil {
		return err
	}
	_, err = c.call(ctx, c.message("serving.PredictRequest"))
	if err := expect(err, codes.InvalidArgument, "Missing ModelSpec"); err != nil {
		return err
	}
	answer := c.message("serving.PredictResponse")
	err = c.connection.Invoke(ctx, service+"Nope", c.request("", ""), answer)
	return expect(err, codes.Unimplemented, "")
}

func deadline(c *client) error {
	ctx, done := context.WithTimeout(context.Background(), short)
	defer done()
	_, err := c.call(ctx, c.waiting())
	if err := expect(err, codes.DeadlineExceeded, ""); err != nil {
		return err
	}
	return predict(c)
}

func cancel(c *client) error {
	ctx, stop := context.WithCancel(context.Background())
	time.AfterFunc(short, stop)
	_, err := c.call(ctx, c.waiting())
	if err := expect(err, codes.Canceled, ""); err != nil {
		return err
	}
	return predict(c)
}

func anyMetadata(c *client) error {
	ctx, done := patient()
	defer done()
	octets := make([]byte, 256)
	for i := range octets {
		octets[i] = byte(i)
	}
	var header metadata.MD
	ctx = metadata.AppendToOutgoingContext(ctx,
		"x-request-id", "e9aedbe", "x-request-id", "again",
		"x-long", strings.Repeat("ab", 3000), "x-trace-bin", string(octets))
	if err := predictIn(ctx, c, grpc.Header(&header)); err != nil {
		return err
	}
	if got := header.Get("content-type"); len(got) != 1 || got[0] != "application/grpc" {
		return fmt.Errorf("content-type is %v", got)
	}
	return nil
}

func counted(size int) []float32 {
	values := make([]float32, size)
	for i := range values {
		values[i] = float32(i)
	}
	return values
}

func large(c *client) error {
	ctx, done := patient()
	defer done()
	values := counted(largeFloats)
	answer, err := c.call(ctx, c.identity(values))
	if err != nil {
		return err
	}
	return same(answer, values)
}

func compression(c *client) error {
	ctx, done := patient()
	defer done()
	values := counted(1_000_000)
	answer, err := c.call(ctx, c.identity(values), grpc.UseCompressor(gzip.Name))
	if err != nil {
		return err
	}
	if c.compressed.count != 1 {
		return fmt.Errorf("%d answers came compressed", c.compressed.count)
	}
	return same(answer, values)
}

// watchHealth reads one answer of a stream that would go on, and hangs up.
func watchHealth(c *client) error {
	ctx, done := patient()
	defer done()
	watch, err := healthpb.NewHealthClient(c.connection).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	answer, err := watch.Recv()
	if err != nil {
		return err
	}
	if answer.Status != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("it is %s", answer.Status)
	}
	return nil
}

func manyCalls(c *client) error {
	total, err := strconv.Atoi(os.Getenv("SALVER_CALLS"))
	must(err)
	work := make(chan struct{}, total)
	for range total {
		work <- struct{}{}
	}
	close(work)
	results := make(chan error, inFlight)
	for range inFlight {
		go func() {
			for range work {
				if err := predict(c); err != nil {
					results <- err
					return
				}
			}
			results <- nil
		}()
	}
	for range inFlight {
		if err := <-results; err != nil {
			return err
		}
	}
	return nil
}
