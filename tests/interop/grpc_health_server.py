"""A gRPC server with the health service of its own library: the server and shop.Users serve, shop.Orders does not.
Prints its port; ends when its stdin does."""

import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

servicer = health.HealthServicer()
statuses = health_pb2.HealthCheckResponse
servicer.set("shop.Users", statuses.SERVING)
servicer.set("shop.Orders", statuses.NOT_SERVING)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(0)
