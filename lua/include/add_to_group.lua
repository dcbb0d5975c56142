-- What one more rank says of a room, added to its group.
--
-- INCLUDE  caller, order, numbers, rank_view, group

local function move_rank(group, own, status)
  local counts, fields = group.counts, group.fields
  if own then counts[ORDER[own] or 4] = counts[ORDER[own] or 4] - 1 end
  counts[ORDER[status]] = counts[ORDER[status]] + 1
  fields[status_field], group.changed = status, group.changed + 1
  add_pair(group.sets, status_field, status)
  add_pair(group.words, 'rank:' .. rank, status)
  if status == 'Success' then
    if fields[lease_field] then group.deletes[#group.deletes + 1] = lease_field end
  elseif owner ~= '' and fields[lease_field] ~= incarnation then
    add_pair(group.sets, lease_field, incarnation)
    fields[lease_field], group.holders[#group.holders + 1] = incarnation, incarnation
  end
end

-- Returns the outcome of a status and the rank's view after it; nil if the room is not live, or the status is Failed.
local function add_status(group, incoming, is_fenced)
  local fields, counts = group.fields, group.counts
  local own, strict = fields[status_field], is_fenced or ARGV[11] == 'strict'
  if not (ORDER[fields.status] and counts and is_number(fields.version or '')) then return nil end
  if counts[0] - 0 > 0 or incoming == 'Failed' or group.is_clearing then return nil end
  if fields[cleared_field] then return 5, false end
  if not own and strict and ORDER[incoming] > 2 then return 5, false end
  if own and ORDER[incoming] <= (ORDER[own] or 9) then return 3, own end
  move_rank(group, own, incoming)
  return own and 2 or 1, incoming
end

-- Returns the outcome of a clear and the rank's view before it, as clear.lua does; nil after statuses.
local function add_clear(group)
  local fields, counts = group.fields, group.counts
  local own = fields[status_field]
  local view = rank_view(fields.status, own, fields[cleared_field])
  if group.changed > 0 or #group.lengths > 0 then return nil end
  if not ORDER[fields.status] then return -4, 'status ' .. (fields.status or '') end
  group.is_clearing = true
  add_pair(group.lengths, length_field)
  if not view then return 6, false end
  if not own then counts[0] = counts[0] + 1 end
  counts[5] = counts[5] + 1
  fields[status_field], fields[cleared_field] = nil, own or 'Failed'
  add_pair(group.sets, cleared_field, own or 'Failed')
  add_pair(group.deletes, status_field, lease_field)
  add_pair(group.words, 'rank:' .. rank, 'absent')
  group.is_over = counts[0] + counts[1] + counts[2] + counts[3] + counts[4] - counts[5] <= 0
  return 7, view
end
