// Go's net/http over REST: HTTP/1.1, and HTTP/2 by ALPN or, in the clear, with prior knowledge.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	timeout     = time.Minute
	short       = 200 * time.Millisecond
	inFlight    = 50
	largeFloats = 5_000_000
	question    = `{"instances": [1, 2, 5]}`
)

var root = os.Getenv("SALVER_REST")

func main() {
	log.SetFlags(0)
	fmt.Println("version: Go", strings.TrimPrefix(runtime.Version(), "go"))
	protocol := os.Args[1]
	client := connect(protocol)
	for _, check := range []struct {
		name string
		run  func(*http.Client) error
	}{
		{"predict", func(c *http.Client) error { return predict(c, protocol) }},
		{"errors", failures},
		{"give up", giveUp},
		{"20 MB", large},
		{"gzip", compression},
		{"calls", manyCalls},
	} {
		if err := check.run(client); err != nil {
			log.Fatalf("%s: %v", check.name, err)
		}
		fmt.Println("did:", check.name)
	}
}

func connect(protocol string) *http.Client {
	protocols := new(http.Protocols)
	secure := os.Getenv("SALVER_CA") != ""
	protocols.SetHTTP1(protocol == "HTTP/1.1")
	protocols.SetHTTP2(protocol == "HTTP/2.0" && secure)
	protocols.SetUnencryptedHTTP2(protocol == "HTTP/2.0" && !secure)
	transport := &http.Transport{Protocols: protocols, MaxConnsPerHost: 1}
	if secure {
		octets, err := os.ReadFile(os.Getenv("SALVER_CA"))
		if err != nil {
			log.Fatal(err)
		}
		trusted := x509.NewCertPool()
		trusted.AppendCertsFromPEM(octets)
		transport.TLSClientConfig = &tls.Config{RootCAs: trusted}
	}
	return &http.Client{Transport: transport, Timeout: timeout}
}

func post(ctx context.Context, client *http.Client, path, body string, headers ...string) (*http.Response, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, root+path, strings.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	octets, err := io.ReadAll(response.Body)
	return response, octets, err
}

func right(octets []byte) error {
	var answer struct{ Predictions []float64 }
	if err := json.Unmarshal(octets, &answer); err != nil {
		return err
	}
	if fmt.Sprint(answer.Predictions) != "[2.5 3 4.5]" {
		return fmt.Errorf("the answer is %s", octets)
	}
	return nil
}

func predict(client *http.Client, protocol string) error {
	response, octets, err := post(context.Background(), client, "/v1/models/half_plus_two:predict", question)
	if err != nil {
		return err
	}
	if protocol != "" && response.Proto != protocol {
		return fmt.Errorf("it was spoken %s", response.Proto)
	}
	return right(octets)
}

func failures(client *http.Client) error {
	response, octets, err := post(context.Background(), client, "/v1/models/nope:predict", question)
	if err != nil {
		return err
	}
	if response.StatusCode != 404 || !bytes.Contains(octets, []byte("Servable not found for request: Latest(nope)")) {
		return fmt.Errorf("%d %s", response.StatusCode, octets)
	}
	return nil
}

func giveUp(client *http.Client) error {
	ctx, done := context.WithTimeout(context.Background(), short)
	defer done()
	body, err := json.Marshal(map[string]any{
		"inputs": map[string]string{"arrived": "/dev/null", "leave": os.Getenv("SALVER_GATE")},
	})
	if err != nil {
		return err
	}
	if _, _, err := post(ctx, client, "/v1/models/turnstile:predict", string(body)); ctx.Err() == nil {
		return fmt.Errorf("it was answered: %v", err)
	}
	return predict(client, "")
}

func large(client *http.Client) error {
	values := strings.Repeat("0.5,", largeFloats-1) + "0.5"
	body := `{"signature_name":"float","instances":[` + values + `]}`
	_, octets, err := post(context.Background(), client, "/v1/models/all_dtypes:predict", body)
	if err != nil {
		return err
	}
	if got := bytes.Count(octets, []byte("0.5")); got != largeFloats {
		return fmt.Errorf("%d values came back", got)
	}
	return nil
}

func compression(client *http.Client) error {
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	if _, err := writer.Write([]byte(question)); err != nil {
		return err
	}
	if err := writer.Close(); err != nil {
		return err
	}
	_, octets, err := post(context.Background(), client, "/v1/models/half_plus_two:predict",
		packed.String(), "Content-Encoding", "gzip")
	if err != nil {
		return err
	}
	return right(octets)
}

func manyCalls(client *http.Client) error {
	total, err := strconv.Atoi(os.Getenv("SALVER_CALLS"))
	if err != nil {
		return err
	}
	work := make(chan struct{}, total)
	for range total {
		work <- struct{}{}
	}
	close(work)
	var waiting sync.WaitGroup
	results := make(chan error, inFlight)
	for range inFlight {
		waiting.Go(func() {
			for range work {
				if err := predict(client, ""); err != nil {
					results <- err
					return
				}
			}
		})
	}
	waiting.Wait()
	close(results)
	return <-results
}
