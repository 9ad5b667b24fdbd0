package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/anthropics/boxlite/pkg/runtime"
)

// nameTaken says of a name that another box has which commands go on from there.
func nameTaken(ctx context.Context, rt *runtime.Runtime, what, name string, err error) error {
	if !errors.Is(err, runtime.ErrAlreadyExists) {
		return err
	}
	i, ierr := rt.GetInfo(ctx, name)
	if ierr != nil {
		return err
	}
	return fmt.Errorf("%s: there is a box %s already, and it is %s: %s", what, name, i.Status, waysOn(i.Status, name))
}

// waysOn are the commands for a box that is there already.
func waysOn(status runtime.BoxStatus, name string) string {
	switch {
	case status.IsActive():
		return fmt.Sprintf("boxlite attach %s joins its command, boxlite rm -f %s kills and removes it", name, name)
	case status.CanStart():
		return fmt.Sprintf("boxlite start %s starts it, boxlite rm %s removes it", name, name)
	}
	return fmt.Sprintf("boxlite rm %s removes it", name)
}

// stillRuns says of a box that is not removed while it runs which commands do it.
func stillRuns(ctx context.Context, rt *runtime.Runtime, name string, err error) error {
	if !errors.Is(err, runtime.ErrInvalidState) {
		return err
	}
	i, ierr := rt.GetInfo(ctx, name)
	if ierr != nil || !i.Status.IsActive() {
		return err
	}
	return fmt.Errorf("rm: box %s is %s: boxlite stop %s stops it first, boxlite rm -f %s kills and removes it", name, i.Status, name, name)
}
