-- Quality of either task: segmentation has Dice, classification has shares of
-- right answers. Networks are compared by one figure, under its metric's name.

-- Existing results are of segmentation. Results are append only; here they only
-- get the columns that they would have had, so the guard rests for this once.
alter table result disable trigger append_only;

alter table result
    alter column mean_dice drop not null,
    alter column dice_per_class drop not null,
    add column quality double precision,
    add column quality_metric text,
    add column case_count bigint check (case_count >= 0),
    add column classification jsonb;

update result set quality = mean_dice, quality_metric = 'mean_dice';

alter table result enable trigger append_only;

alter table result
    alter column quality set not null,
    alter column quality_metric set not null,
    add constraint result_quality_metric check (quality_metric in ('mean_dice', 'top1')),
    add constraint result_segmentation check (
        (quality_metric = 'mean_dice') = (mean_dice is not null)
        and (mean_dice is null) = (dice_per_class is null)
        and (mean_dice is not null or case_count is null)
    ),
    add constraint result_classification check ((quality_metric = 'top1') = (classification is not null));

comment on column result.mean_dice is
    'Mean over the classes but the background, 0 to 1; null for classification.';
comment on column result.dice_per_class is 'From class 1; null for classification.';
comment on column result.quality is 'The figure that networks are compared by, 0 to 1, higher is better.';
comment on column result.quality_metric is 'Name of quality: ''mean_dice'' or ''top1''.';
comment on column result.case_count is 'Cases that the Dice is a mean over; null for classification and older results.';
comment on column result.classification is
    'top1, top5, balanced_accuracy, auc, recall_per_class, loss, sample_count in the domain''s JSON form; null for segmentation.';

alter table job_progress rename column mean_dice to quality;
alter table job_progress add column quality_metric text check (length(quality_metric) between 1 and 64);

update job_progress set quality_metric = 'mean_dice' where quality is not null;

alter table job_progress
    add constraint job_progress_quality check ((quality is null) = (quality_metric is null));

comment on column job_progress.quality is
    'The figure that networks are compared by, of the last validation; null before the first.';
comment on column job_progress.quality_metric is 'Name of quality: ''mean_dice'' or ''top1''.';
