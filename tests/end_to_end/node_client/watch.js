// Trains and calls a model with only the .proto files and gRPC, like a program in any language.
//
//     node watch.js ADDRESS MODEL
//
// Starts the digits recipe, watches the job, stops, watches again after the last event, calls the
// published model with a black image, and prints one line of JSON. Fails if an event is lost or doubled.
"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const PROTOS = path.join(__dirname, "..", "..", "..", "protos");
const OVERRIDES = {
  "schedule.epochs": { integer_value: 2 },
  "generations.count": { integer_value: 1 },
  "architecture.exits": { integer_value: 2 },
  threads: { integer_value: 1 },
};
const BREAK_AFTER = 3; // events
const IMAGE = { name: "image", datatype: "UINT8", shape: [1, 1, 8, 8] };

const contracts = ["training.proto", "open_inference.proto"].map((name) => path.join(PROTOS, name));
const options = { keepCase: true, longs: Number, enums: String, oneofs: true };
const { offramp, inference } = grpc.loadPackageDefinition(loader.loadSync(contracts, options));

function call(client, rpc, request) {
  return new Promise((resolve, reject) =>
    client[rpc](request, (error, response) => (error ? reject(error) : resolve(response))),
  );
}

function watch(client, id, afterEvent, most = Infinity) {
  return new Promise((resolve, reject) => {
    const events = [];
    const stream = client.Watch({ id, after_event: afterEvent });
    stream.on("data", (event) => {
      if (events.length < most) events.push(event);
      if (events.length === most) stream.cancel();
    });
    stream.on("error", (error) =>
      error.code === grpc.status.CANCELLED && events.length === most ? resolve(events) : reject(error),
    );
    stream.on("end", () => resolve(events));
  });
}

async function main(address, model) {
  const training = new offramp.v1.Training(address, grpc.credentials.createInsecure());
  const asked = new inference.GRPCInferenceService(address, grpc.credentials.createInsecure());

  const job = await call(training, "Start", { recipe: "digits", model, overrides: OVERRIDES, serve: true });
  const first = await watch(training, job.id, 0, BREAK_AFTER);
  const then = await watch(training, job.id, first.at(-1).number);
  const over = then.pop().state.job;
  const numbers = [...first, ...then].map((event) => event.number);
  if (!numbers.every((number, place) => number === place + 1)) throw new Error(`numbers: ${numbers}`);

  const { ready } = await call(asked, "ModelReady", { name: model });
  const request = { model_name: model, inputs: [IMAGE], raw_input_contents: [Buffer.alloc(64)] };
  const answer = await call(asked, "ModelInfer", request);
  const label = answer.outputs.findIndex((output) => output.name === "label");
  return {
    job: job.id,
    before: first.length,
    events: numbers.length,
    kinds: [...new Set([...first, ...then].map((event) => event.kind))].sort(),
    state: over.state,
    version: over.version,
    ready,
    answered_by: answer.model_version,
    label: Number(answer.raw_output_contents[label].readBigInt64LE()),
  };
}

main(...process.argv.slice(2)).then(
  (seen) => {
    console.log(JSON.stringify(seen));
    process.exit(0);
  },
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
