import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpClient.Version;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.HttpTimeoutException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.concurrent.CompletableFuture;
import java.util.zip.GZIPOutputStream;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * java.net.http over REST: HTTP/1.1, and HTTP/2 by ALPN.
 *
 * <p>In the clear it asks for HTTP/2 with an upgrade that a server may pass over.
 */
public final class RestClient {
  private static final Duration TIMEOUT = Duration.ofSeconds(60);
  private static final Duration SHORT = Duration.ofMillis(200);
  private static final int IN_FLIGHT = 50;
  private static final int LARGE_FLOATS = 5_000_000;
  private static final String QUESTION = "{\"instances\": [1, 2, 5]}";

  private final HttpClient client;
  private final Version expected;

  private RestClient(HttpClient client, Version expected) {
    this.client = client;
    this.expected = expected;
  }

  public static void main(String[] arguments) throws Exception {
    System.out.println("version: Java " + System.getProperty("java.version"));
    boolean isSecure = !System.getenv("SALVER_CA").isEmpty();
    Version version = Version.valueOf(arguments[0]);
    var builder = HttpClient.newBuilder().version(version);
    if (isSecure) {
      builder.sslContext(trust());
    }
    RestClient rest = new RestClient(builder.build(), isSecure ? version : Version.HTTP_1_1);
    rest.predict();
    say("predict");
    if (!isSecure && version == Version.HTTP_2) {
      say("upgrade passed over");
    }
    rest.errors();
    say("errors");
    rest.giveUp();
    say("give up");
    rest.large();
    say("20 MB");
    rest.compressed();
    say("gzip");
    rest.manyCalls();
    say("calls");
    System.exit(0); // its threads are in no hurry
  }

  private static void say(String what) {
    System.out.println("did: " + what);
  }

  private static void check(boolean isSo, Object found) {
    if (!isSo) {
      throw new AssertionError(String.valueOf(found));
    }
  }

  private static SSLContext trust() throws Exception {
    KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
    store.load(null);
    try (InputStream pem = Files.newInputStream(Path.of(System.getenv("SALVER_CA")))) {
      store.setCertificateEntry(
          "ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
    }
    var trusted = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trusted.init(store);
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(null, trusted.getTrustManagers(), null);
    return context;
  }

  private static HttpRequest.Builder request(String model, byte[] body) {
    URI uri = URI.create(System.getenv("SALVER_REST") + "/v1/models/" + model + ":predict");
    return HttpRequest.newBuilder(uri).timeout(TIMEOUT).POST(BodyPublishers.ofByteArray(body));
  }

  private static HttpRequest.Builder request(String model, String body) {
    return request(model, body.getBytes(StandardCharsets.UTF_8));
  }

  private HttpResponse<String> send(HttpRequest.Builder request) throws Exception {
    return client.send(request.build(), BodyHandlers.ofString());
  }

  private static void isRight(HttpResponse<String> answer) {
    String numbers = answer.body().replaceAll("\\s", "");
    check(numbers.equals("{\"predictions\":[2.5,3.0,4.5]}"), answer.body());
  }

  private void predict() throws Exception {
    HttpResponse<String> answer = send(request("half_plus_two", QUESTION));
    isRight(answer);
    check(answer.version() == expected, answer.version());
  }

  private void errors() throws Exception {
    HttpResponse<String> answer = send(request("nope", QUESTION));
    check(answer.statusCode() == 404, answer.statusCode());
    check(
        answer.body().contains("Servable not found for request: Latest(nope)"), answer.body());
  }

  private void giveUp() throws Exception {
    String body =
        "{\"inputs\": {\"arrived\": \"/dev/null\", \"leave\": \"%s\"}}"
            .formatted(System.getenv("SALVER_GATE"));
    try {
      send(request("turnstile", body).timeout(SHORT));
    } catch (HttpTimeoutException expectedToCome) {
      predict();
      return;
    }
    throw new AssertionError("it was answered");
  }

  private void large() throws Exception {
    String values = "0.5,".repeat(LARGE_FLOATS - 1) + "0.5";
    String body = "{\"signature_name\":\"float\",\"instances\":[" + values + "]}";
    String text = send(request("all_dtypes", body)).body();
    int count = 0;
    for (int at = text.indexOf("0.5"); at >= 0; at = text.indexOf("0.5", at + 3)) {
      count++;
    }
    check(count == LARGE_FLOATS, count);
  }

  private void compressed() throws Exception {
    ByteArrayOutputStream packed = new ByteArrayOutputStream();
    try (GZIPOutputStream packer = new GZIPOutputStream(packed)) {
      packer.write(QUESTION.getBytes(StandardCharsets.UTF_8));
    }
    isRight(
        send(request("half_plus_two", packed.toByteArray()).header("Content-Encoding", "gzip")));
  }

  private void manyCalls() throws Exception {
    int calls = Integer.parseInt(System.getenv("SALVER_CALLS"));
    ArrayDeque<CompletableFuture<HttpResponse<String>>> waiting = new ArrayDeque<>();
    for (int i = 0; i < calls; i++) {
      if (waiting.size() == IN_FLIGHT) {
        isRight(waiting.poll().get());
      }
      HttpRequest next = request("half_plus_two", QUESTION).build();
      waiting.add(client.sendAsync(next, BodyHandlers.ofString()));
    }
    while (!waiting.isEmpty()) {
      isRight(waiting.poll().get());
    }
  }
}
