"""The rows of the dashboard about certificates, drift, training jobs and the process."""

from deploy.grafana.panel import MODEL, POINT, SERVER, Panel, Query, Row, rate

YES = ((0, "no", "red"), (1, "yes", "green"))
ALARM = ((0, "no", "green"), (1, "alarm", "red"))

BY_POINT = "sum by (model, version, operating_point)"
SAMPLED = f"{BY_POINT} (increase(offramp_shadow_rows_total{{{MODEL}}}[1h]))"
DIFFERED = f'{BY_POINT} (increase(offramp_shadow_rows_total{{{MODEL}, agreed="false"}}[1h]))'

CERTIFICATES = Row(
    "Certificates",
    (
        Panel(
            "Certificates",
            "Whether each point's certificate holds. Red: it is revoked or broken; "
            "see OfframpCertificateRevoked in docs/operations.md.",
            "none",
            (Query(f"offramp_certificate_holds{{{MODEL}}}", POINT),),
            "state-timeline",
            24,
            states=YES,
        ),
        Panel(
            "Evidence over its limit",
            "Evidence against a certificate, as a share of its limit. At 100% the certificate may be broken. "
            "It begins at 5% for a limit of 20, and falls while rows agree.",
            "percentunit",
            (
                Query(
                    f"offramp_certificate_evidence{{{MODEL}}}"
                    f" / offramp_certificate_evidence_limit{{{MODEL}}}",
                    POINT,
                ),
            ),
            limits=((0, "green"), (0.5, "orange"), (1, "red")),
            logarithmic=True,
        ),
        Panel(
            "Sampled rows",
            "Sampled rows per second whose full-depth answer agreed, differed or is missing. Missing rows "
            "hide disagreement.",
            "cps",
            (
                Query(rate("offramp_shadow_rows_total", "model, agreed"), "{{model}} agreed: {{agreed}}"),
                Query(rate("offramp_shadow_rows_missing_total", "model"), "{{model}} missing"),
            ),
        ),
        Panel(
            "Differing share and certified bound",
            "Share of the sampled rows of the last hour that differed, beside epsilon. Above epsilon the "
            "evidence grows.",
            "percentunit",
            (
                Query(
                    f"({DIFFERED} or 0 * {SAMPLED}) / {SAMPLED}",
                    "{{model}}/{{version}} {{operating_point}} differed",
                ),
                Query(
                    f"max by (model, version, operating_point) (offramp_certificate_epsilon{{{MODEL}}})",
                    "{{model}}/{{version}} {{operating_point}} bound",
                ),
            ),
        ),
        Panel(
            "Suspected by one caller",
            "1 while only the rows of one caller contradict the certificate. The log names the caller.",
            "none",
            (Query(f"offramp_certificate_suspected{{{MODEL}}}", POINT),),
            "state-timeline",
            states=((0, "no", "green"), (1, "suspected", "orange")),
        ),
        Panel(
            "Too many rows missing",
            "1 while so many sampled rows are missing that a broken certificate may go unnoticed.",
            "none",
            (Query(f"offramp_shadow_missing_alarm{{{MODEL}}}", POINT),),
            "state-timeline",
            states=ALARM,
        ),
        Panel(
            "Unwritten revocations",
            "Revocations in force that the state folder does not hold. Above 0 for minutes, a restart would "
            "lose them.",
            "none",
            (Query(f"offramp_revocations_unwritten{{{SERVER}}}", "{{instance}}"),),
        ),
    ),
)

DRIFT = Row(
    "Drift",
    (
        Panel(
            "Stability index",
            "Distance of the last window's exits and confidences from the manifest. 0.1 is a moderate shift, "
            "0.25 a major one.",
            "none",
            (
                Query(f"offramp_exit_drift{{{MODEL}}}", f"exits of {POINT}"),
                Query(
                    f"offramp_confidence_drift{{{MODEL}}}",
                    "confidence of {{model}}/{{version}} at {{instance}}",
                ),
            ),
            width=12,
            limits=((0, "green"), (0.1, "orange"), (0.25, "red")),
        ),
        Panel(
            "Drift alarms",
            "Alarm while the last window is beyond monitor.drift_alarm. Accuracy may have fallen, although "
            "certificates hold.",
            "none",
            (Query(f"offramp_drift_alarm{{{MODEL}}}", "{{signal}} of " + POINT),),
            "state-timeline",
            12,
            states=ALARM,
        ),
    ),
)

JOBS = Row(
    "Training jobs",
    (
        Panel(
            "Jobs by state",
            "Training jobs of each state. Look for failed jobs. Empty without --enable-training.",
            "none",
            (Query(f"sum by (state) (offramp_training_jobs{{{SERVER}}})", "{{state}}"),),
        ),
        Panel(
            "Epochs per hour",
            "Epochs that jobs finished in the last hour. 0 while a job runs means that it stands still.",
            "none",
            (
                Query(
                    f"sum by (instance) (increase(offramp_training_epochs_total{{{SERVER}}}[1h]))",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Jobs that run",
            "Mean number of jobs that ran at the same time. Compare with training.max_jobs.",
            "none",
            (Query(rate("offramp_training_seconds_total", "instance", SERVER), "{{instance}}"),),
        ),
    ),
)

PROCESS = Row(
    "Process",
    (
        Panel(
            "CPU",
            "Cores that the server uses. At the number of cores the machine is at its limit.",
            "none",
            (Query(f"rate(process_cpu_seconds_total{{{SERVER}}}[$__rate_interval])", "{{instance}}"),),
        ),
        Panel(
            "Memory",
            "Resident memory. A rise for hours at constant load and the same models is a leak.",
            "bytes",
            (Query(f"process_resident_memory_bytes{{{SERVER}}}", "{{instance}}"),),
        ),
        Panel(
            "File descriptors",
            "Open file descriptors as a share of the limit. Each connection needs one.",
            "percentunit",
            (Query(f"process_open_fds{{{SERVER}}} / process_max_fds{{{SERVER}}}", "{{instance}}"),),
            maximum=1,
        ),
        Panel(
            "Running since",
            "Age of the process. A drop to 0 is a restart: the evidence of all certificates begins again.",
            "s",
            (Query(f"time() - process_start_time_seconds{{{SERVER}}}", "{{instance}}"),),
        ),
        Panel(
            "Log lines dropped",
            "Lines per second that could not be written in time. Above 0, repair what reads stderr.",
            "cps",
            (Query(rate("offramp_log_lines_dropped_total", "instance", SERVER), "{{instance}}"),),
        ),
        Panel(
            "Installation",
            "Versions, device and front end of each server. Look for servers that differ.",
            "none",
            (
                Query(
                    f"offramp_build_info{{{SERVER}}}"
                    " * on (job, instance) group_left (device, provider) offramp_device_info"
                    " * on (job, instance) group_left (front_end) offramp_front_end_info",
                    "{{instance}}",
                ),
            ),
            "table",
        ),
    ),
)

MONITOR_ROWS = (CERTIFICATES, DRIFT, JOBS, PROCESS)
