/* ONNX files, in protobuf's wire format.
 *
 * Read: the graph's initialisers (raw_data, or packed float_data or double_data) and metadata_props as
 * notes. Nodes only tell names: those of the weights into which an exporter has folded a norm, and the
 * further names of a shared tensor. External data are read from files in or below the ONNX file's folder.
 *
 * Written: initialisers under our names, and a graph where the network is known: opset 13, input
 * "input" (N,C,H,W) float32 with N, H and W free, output "logits" (N,classes). A norm is a
 * BatchNormalization (its mean zero for MABN), or InstanceNormalization, between reshapes for group and
 * layer norm. A centralized convolution subtracts its filters' means in the graph, which run-times
 * compute once. With folding, norms are folded into the convolutions where
 * possible. A file of more than 2 GiB, protobuf's limit, is MABN_ERR_LIMIT. */
#ifndef MABN_EXCHANGE_ONNX_H
#define MABN_EXCHANGE_ONNX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/str.h"
#include "exchange/weights.h"
#include "net/net.h"

MABN_BEGIN_DECLS

/* ---- protobuf ---- */

void mabn_proto_int(struct mabn_str *out, int field, int64_t value);
void mabn_proto_float(struct mabn_str *out, int field, float value);
void mabn_proto_bytes(struct mabn_str *out, int field, const void *bytes, size_t n);
void mabn_proto_text(struct mabn_str *out, int field, const char *text);

/* ---- the graph ---- */

/* Append the nodes, input and output of a GraphProto for this classifier, with initialisers under
 * our names; folded: convolutions have biases and the norms that fold are gone. */
void mabn_onnx_graph(struct mabn_str *graph, const struct mabn_net *net, bool folded);

/* Give an ONNX writer its graph, before the first tensor; without one it is a bare container. */
void mabn_weights_set_graph(struct mabn_weights_writer *writer, const struct mabn_str *graph);

MABN_END_DECLS
#endif
