package catalogue_test

import "time"

// The payloads as Tensorlake documents them. A schema is made of each by schemaOf: a field without omitzero is one that
// fnbridge insists on, a pointer may be null, and words are examples of what is documented, never all that is allowed.

type workflow struct {
	Name       string            `json:"workflow_name" desc:"Name of the workflow."`
	Invocation string            `json:"invocation_id" desc:"Id of the invocation, all functions of which have finished."`
	Statuses   map[string]string `json:"fn_status" desc:"How each function ended, by the function's name." words:"success failure"`
}

type documentJob struct {
	ID         string          `json:"job_id"`
	Status     string          `json:"status" words:"pending processing success successful completed failure failed"`
	Dataset    *string         `json:"dataset,omitzero"`
	CreatedAt  *time.Time      `json:"created_at,omitzero"`
	FinishedAt *time.Time      `json:"finished_at,omitzero"`
	Usage      *map[string]any `json:"usage,omitzero" desc:"What the job has used, as numbers of any size."`
	Error      any             `json:"error,omitzero" desc:"Why it failed, in whatever form."`
}

type envelope[D any] struct {
	ID         string    `json:"event_id" min:"1" desc:"The same in every try to deliver: with project_id, what to dedupe on."`
	Type       string    `json:"event_type" min:"1"`
	Version    any       `json:"event_version,omitzero" type:"number string null" desc:"Version of the schema, now 1."`
	OccurredAt time.Time `json:"occurred_at" desc:"When the transition was recorded."`
	Project    string    `json:"project_id"`
	Source     string    `json:"source_id" desc:"The domain within which source_revision and source_ordinal order events. Not a sandbox, not a request."`
	Revision   *string   `json:"source_revision,omitzero" pattern:"^-?[0-9]+$" desc:"To be compared as a number, which may need 64 bits without a sign."`
	Ordinal    any       `json:"source_ordinal,omitzero" type:"integer string null" pattern:"^-?[0-9]+$" desc:"Order among the events of one revision, from 0."`
	Data       D         `json:"data"`
}

type requestData struct {
	Application struct {
		Name    string `json:"name" min:"1"`
		Version string `json:"version,omitzero"`
	} `json:"application"`
	Request struct {
		ID            string     `json:"id" min:"1"`
		Status        string     `json:"status,omitzero" words:"created completed failed"`
		FailureReason *string    `json:"failure_reason,omitzero" words:"unknown internal_error function_error function_timeout request_error constraint_unsatisfiable cancelled out_of_memory"`
		CreatedAt     time.Time  `json:"created_at,omitzero"`
		FinishedAt    *time.Time `json:"finished_at,omitzero"`
	} `json:"request"`
}

type applicationData struct {
	PreviousVersion *string `json:"previous_version,omitzero" desc:"Null at its creation."`
	PreviousState   *string `json:"previous_state,omitzero" desc:"Null at its creation." words:"active disabled"`
	Application     struct {
		Name           string    `json:"name" min:"1"`
		Version        string    `json:"version,omitzero"`
		State          string    `json:"state,omitzero" words:"active disabled"`
		DisabledReason *string   `json:"disabled_reason,omitzero"`
		CreatedAt      time.Time `json:"created_at,omitzero"`
	} `json:"application"`
}

type sandboxData struct {
	PreviousStatus *string `json:"previous_status,omitzero" desc:"Null at its creation." words:"pending running suspended terminated"`
	Sandbox        struct {
		ID            string    `json:"id" min:"1"`
		Name          *string   `json:"name,omitzero"`
		Type          string    `json:"type,omitzero" words:"named ephemeral"`
		Image         *string   `json:"image,omitzero"`
		Generation    int       `json:"generation_id,omitzero" desc:"From 1; one more each time it is resumed."`
		Status        string    `json:"status,omitzero" words:"pending running suspended terminated"`
		Outcome       *string   `json:"outcome,omitzero" words:"success failure"`
		OutcomeReason *string   `json:"outcome_reason,omitzero" words:"unknown user_terminated timeout internal_error constraint_unsatisfiable executor_removed out_of_memory container_startup_failed pool_deleted container_terminated bad_image image_not_found container_unhealthy function_error function_timeout function_cancelled desired_state_removed process_crash executor_drained"`
		Snapshot      *string   `json:"snapshot_id,omitzero"`
		CreatedAt     time.Time `json:"created_at,omitzero"`
		Resources     struct {
			CPUs     float64 `json:"cpus,omitzero"`
			MemoryMB float64 `json:"memory_mb,omitzero"`
			DiskMB   float64 `json:"disk_mb,omitzero"`
			GPUs     int     `json:"gpu_count,omitzero"`
			GPUModel *string `json:"gpu_model,omitzero"`
		} `json:"resources,omitzero"`
	} `json:"sandbox"`
}

// What fnbridge says itself.

type function struct {
	Workflow   string `json:"workflow_name"`
	Invocation string `json:"invocation_id"`
	Function   string `json:"function"`
	Status     string `json:"status" desc:"As the payload has it." words:"success failure"`
	Total      int    `json:"functions_total" desc:"How many functions the payload names."`
}

type summary struct {
	Workflow   string `json:"workflow_name"`
	Invocation string `json:"invocation_id"`
	Total      int    `json:"functions_total"`
	Succeeded  int    `json:"succeeded"`
	Failed     int    `json:"failed"`
	Status     string `json:"status" words:"success failure partial"`
}
