// Asks a torso server for labels and actions: node client.js [ADDRESS], where it serves `digits` and `cartpole`.
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const address = process.argv[2] ?? "127.0.0.1:8500";
const deadlineIn = (seconds) => ({ deadline: Date.now() + 1000 * seconds });

// Which calls are made again, and when: grpc-js does it, within each call's deadline.
const serviceConfig = {
  methodConfig: [{
    name: [{ service: "torso.v1.PredictionService" }],
    retryPolicy: {
      maxAttempts: 5,
      initialBackoff: "0.05s",
      maxBackoff: "5s",
      backoffMultiplier: 2,
      retryableStatusCodes: ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    },
  }],
};

const definition = await protoLoader.load("prediction.proto", {
  includeDirs: ["protos"],
  keepCase: true,
  enums: String,
  longs: Number,
  defaults: true,
});
const { PredictionService } = grpc.loadPackageDefinition(definition).torso.v1;
const client = new PredictionService(address, grpc.credentials.createInsecure(), {
  "grpc.service_config": JSON.stringify(serviceConfig),
});
// With TLS: grpc.credentials.createSsl(fs.readFileSync("ca.pem")). With a token: put ["authorization", "Bearer TOKEN"] into
// a grpc.Metadata and hand it to each call before its options.
const call = (method) => promisify(client[method]).bind(client);

// A typed array is a tensor's bytes as they are, on every machine whose order is little-endian.
const DTYPES = { Uint8Array: "uint8", Int32Array: "int32", Float32Array: "float32", Float64Array: "float64" };
const tensor = (array, shape) => ({
  dtype: DTYPES[array.constructor.name],
  shape,
  data: Buffer.from(array.buffer, array.byteOffset, array.byteLength),
});
const numbers = ({ data }) => Array.from({ length: data.length / 4 }, (_, index) => data.readFloatLE(4 * index));

const { models } = await call("ListModels")({}, deadlineIn(10));
console.log(JSON.stringify({ models: models.map(({ name, kind }) => [name, kind]) }));

const scans = Uint8Array.from({ length: 2 * 64 }, (_, index) => index % 17);
const labelled = await call("Classify")({ model: "digits", tensor: tensor(scans, [2, 8, 8]), top_k: 2 }, deadlineIn(10));
console.log(JSON.stringify({ labels: labelled.rows.map((row) => row.labels) }));

const observations = Float32Array.of(0.1, 0, 0.02, 0, -1, -2.5, 0.1, 3);
const acted = await call("Act")({ model: "cartpole", observations: tensor(observations, [2, 4]) }, deadlineIn(10));
console.log(JSON.stringify({ actions: acted.actions, values: numbers(acted.values) }));

// A stream plays episodes: a request an observation, a response an action, in order.
const stream = client.ActStream(deadlineIn(60));
const responses = stream[Symbol.asyncIterator]();
const actions = [];
for (const step of [0, 1, 2]) {
  stream.write({
    ...(step === 0 ? { model: "cartpole", start: true } : {}),
    episode: 7,
    observation: tensor(Float32Array.of(step, 0, 0, 0), [4]),
  });
  const { value } = await responses.next();
  if (value.error) throw new Error(value.error.message);
  actions.push(value.action);
}
stream.end();
console.log(JSON.stringify({ streamed: actions }));

try {
  await call("Act")({ model: "digits", observations: tensor(observations, [2, 4]) }, deadlineIn(10));
} catch (error) {
  console.log(JSON.stringify({ code: grpc.status[error.code], message: error.details }));
}
client.close();
