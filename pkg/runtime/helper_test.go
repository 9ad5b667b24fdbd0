package runtime

import (
	"net/http"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

func setStatus(s BoxStatus) func(*state.Box) error {
	return func(row *state.Box) error {
		row.Status, row.PID, row.PIDStart = string(s), 0, 0
		return nil
	}
}

func refuseAll(w http.ResponseWriter, _ *http.Request) bool {
	w.WriteHeader(http.StatusNotFound)
	return true
}
