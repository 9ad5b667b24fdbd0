package oci

import (
	"context"
	"io"

	"github.com/anthropics/boxlite/pkg/oci/erofs"
)

func fromDir(ctx context.Context, dir string, blob, meta io.Writer, o erofs.Options) (erofs.LayerInfo, error) {
	return erofs.LayerInfo{}, fail(ErrUnsupported, "importing a folder tree is not built in yet")
}
