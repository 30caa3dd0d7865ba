import type { Cidr, Cidr6 } from "../../base/address.ts";
import type {
  AffinityList,
  BackendAction,
  BackendRow,
  DrainReport,
  DrainRequest,
  DropList,
  FlowList,
  ReloadReport,
  ServiceRow,
  Status,
  WorkerRow,
} from "../../base/admin-types.ts";

/** Which flows `GET /api/v1/flows` asks for, or entries `…/affinity`; null or "" means any. */
export interface FlowQuery {
  /** Rows listed at most; the total counts all that match. */
  readonly limit: number;
  readonly service: string | null;
  /** `ADDRESS` or `ADDRESS:PORT`. */
  readonly backend: string | null;
  /** Client addresses. */
  readonly client: Cidr | Cidr6 | null;
}

/** What the admin server shows and does: the gateway, without its parts. */
export interface GatewayView {
  status(): Status;
  services(): ServiceRow[];
  /** @throws HeadgateError HEADGATE_NOT_FOUND for a service that is not there */
  backends(service: string | null): BackendRow[];
  /** @throws HeadgateError HEADGATE_NOT_FOUND for a service that is not there */
  flows(query: FlowQuery): FlowList;
  /** @throws HeadgateError HEADGATE_NOT_FOUND for a service that is not there */
  affinity(query: FlowQuery): AffinityList;
  drops(): DropList;
  workers(): WorkerRow[];
  /** The effective configuration, as JSON. */
  configuration(): object;
  /**
   * Set an override; fulfilled when the data plane has taken it.
   *
   * @returns the backends that it changed
   * @throws HeadgateError HEADGATE_NOT_FOUND for a service or backend that is not there
   */
  backendAction(action: BackendAction): Promise<BackendRow[]>;
  /** Read the configuration file again. Never throws for a bad one: the report says why not. */
  reload(dryRun: boolean): Promise<ReloadReport>;
  /** Take this node out; the process ends when no flow is left or the time is over. */
  drain(request: DrainRequest): DrainReport;
  /** Prometheus text. */
  metrics(): Promise<string>;
  /** The worker handles batches. */
  isLive(): boolean;
  /** Takes new flows. */
  isReady(): boolean;
}
