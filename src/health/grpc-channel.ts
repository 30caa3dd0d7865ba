import type { Socket } from "node:net";
import { connect, type TLSSocket } from "node:tls";
import {
  CallCredentials,
  ChannelCredentials,
  type ChannelOptions,
  experimental,
} from "@grpc/grpc-js";
import type { TlsQuestion } from "../service/health-definition.ts";
import { type CheckEndpoint, type CheckExtras, connectOptions } from "./check.ts";
import { certificateExtras, tlsOptions } from "./tls.ts";

/**
 * How the gRPC library connects to a backend: from the check's source address, to the backend's address
 * and no other, with the check's TLS, and in a way that ends with the check. The library has its own
 * ideas of all of these (names, proxies, connections that outlive a channel); a resolver and
 * credentials of our own, which it lets one bring, take their place.
 */

const SCHEME = "headgate";
export const GRPC_TARGET = `${SCHEME}:backend`;
/** Option of a channel: what `net.connect` is to be called with. */
const CONNECT_OPTION = "headgate.connect";

class EndpointResolver implements experimental.Resolver {
  readonly #listener: experimental.ResolverListener;
  readonly #options: ChannelOptions;
  #hasAnswered = false;

  constructor(
    _target: experimental.GrpcUri,
    listener: experimental.ResolverListener,
    options: ChannelOptions,
  ) {
    this.#listener = listener;
    this.#options = options;
  }

  updateResolution(): void {
    if (this.#hasAnswered) return;
    this.#hasAnswered = true;
    // The library hands the address to net.connect as it is, with what else stands in it.
    const address = this.#options[CONNECT_OPTION] as { host: string; port: number };
    process.nextTick(() => {
      if (!this.#hasAnswered) return;
      this.#listener(experimental.statusOrFromValue([{ addresses: [address] }]), {}, null, "");
    });
  }

  destroy(): void {
    this.#hasAnswered = false;
  }

  static getDefaultAuthority(): string {
    return "backend";
  }
}

experimental.registerResolver(SCHEME, EndpointResolver);

/** @param signal - ends the connection, also one that does not stand yet */
export function channelOptions(
  endpoint: CheckEndpoint,
  authority: string,
  signal: AbortSignal,
): ChannelOptions {
  return {
    "grpc.default_authority": authority,
    "grpc.enable_retries": 0,
    "grpc.enable_http_proxy": 0,
    "grpc.use_local_subchannel_pool": 1,
    "grpc.service_config_disable_resolution": 1,
    "grpc.primary_user_agent": "headgate",
    // One attempt to connect a check.
    "grpc.initial_reconnect_backoff_ms": 3_600_000,
    "grpc.max_reconnect_backoff_ms": 3_600_000,
    [CONNECT_OPTION]: { ...connectOptions(endpoint), signal },
  };
}

/** Credentials that are the check's TLS, or none; they keep hold of the connection. */
export class EndpointCredentials extends ChannelCredentials {
  readonly #endpoint: CheckEndpoint;
  readonly #tls: TlsQuestion | null;
  /** What the library has connected. */
  readonly sockets = new Set<Socket>();
  #secure: TLSSocket | null = null;

  constructor(endpoint: CheckEndpoint, tls: TlsQuestion | null) {
    super();
    this.#endpoint = endpoint;
    this.#tls = tls;
  }

  /** What the certificate says, while the connection stands. */
  extras(): CheckExtras {
    return this.#secure === null ? {} : certificateExtras(this.#secure);
  }

  override _isSecure(): boolean {
    return this.#tls !== null;
  }

  override _equals(other: ChannelCredentials): boolean {
    return this === other;
  }

  override _createSecureConnector(): experimental.SecureConnector {
    return {
      connect: async (socket) => {
        this.sockets.add(socket);
        if (this.#tls === null) return { socket, secure: false };
        return { socket: await this.#shakeHands(socket, this.#tls), secure: true };
      },
      waitForReady: () => Promise.resolve(),
      getCallCredentials: () => CallCredentials.createEmpty(),
      destroy: () => undefined,
    };
  }

  #shakeHands(socket: Socket, tls: TlsQuestion): Promise<TLSSocket> {
    return new Promise((resolve, reject) => {
      const secure = connect({ ...tlsOptions(this.#endpoint, tls, ["h2"]), socket });
      this.sockets.add(secure);
      secure.once("secureConnect", () => {
        this.#secure = secure;
        if (secure.alpnProtocol === "h2") resolve(secure);
        else reject(new Error("no h2 by ALPN"));
      });
      secure.on("error", reject);
      secure.once("close", () => reject(new Error("closed by the backend")));
    });
  }
}
