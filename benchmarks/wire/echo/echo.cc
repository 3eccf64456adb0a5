// A gRPC server in C++ that does nothing: it reads one field and answers the same few bytes.
//
//   echo ADDRESS
//
// The synchronous API with its own defaults, as most C++ servers use it, TensorFlow Serving's too.
// It prints a line when it listens, and serves until it is killed.

#include <iostream>
#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "echo.grpc.pb.h"

namespace {

constexpr size_t kAnswerBytes = 38;  // 40 with the field's tag and length

class EchoService final : public salver::bench::Echo::Service {
  grpc::Status Call(grpc::ServerContext*, const salver::bench::EchoRequest*,
                    salver::bench::EchoAnswer* answer) override {
    answer->set_payload(answer_);
    return grpc::Status::OK;
  }

  const std::string answer_ = std::string(kAnswerBytes, 'a');
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: echo ADDRESS\n";
    return 2;
  }
  EchoService service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(argv[1], grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) {
    std::cerr << "cannot listen on " << argv[1] << "\n";
    return 1;
  }
  std::cout << "listening" << std::endl;
  server->Wait();
}
